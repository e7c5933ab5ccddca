package jobrun

import (
	"os"
	"slices"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/shellwords"
)

// build runs the job's command in sourceDir, without a shell, and returns its exit
// code.
func build(job jobenv.Job, environ []string, children *children, stdout *os.File) int {
	command, err := shellwords.Split(job.Command)
	if err != nil || len(command) == 0 {
		say("the command cannot be split into words: %v", err)
		return exitConfig
	}
	extra, err := shellwords.Split(job.ExtraArgs)
	if err != nil {
		say("the extra arguments cannot be split into words: %v", err)
		return exitConfig
	}
	argv := slices.Concat(command, extra)
	say("running %s", shellwords.Join(argv))
	return children.run(argv, sourceDir, with(environ, buildProtocols), stdout)
}
