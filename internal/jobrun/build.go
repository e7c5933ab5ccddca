package jobrun

import (
	"os"
	"slices"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/shellwords"
	"iglu.sh/builder/schemas"
)

// A builder runs a job's command.
type builder struct {
	job      jobenv.Job
	environ  []string
	children *children
	teller   teller
	version  func() string // of the image's Nix
}

// build runs the command in sourceDir, without a shell, and returns its exit code.
func (b *builder) build(stdout *os.File) int {
	command, err := shellwords.Split(b.job.Command)
	if err != nil || len(command) == 0 {
		say("the command cannot be split into words: %v", err)
		return exitConfig
	}
	extra, err := shellwords.Split(b.job.ExtraArgs)
	if err != nil {
		say("the extra arguments cannot be split into words: %v", err)
		return exitConfig
	}
	argv := slices.Concat(command, extra)
	environ := with(b.environ, buildProtocols)
	if tellsPrograms(b.version()) {
		nix, err := listenToNix(b.teller)
		if err != nil {
			say("the job goes on without what Nix tells of its progress: %v", err)
		} else {
			defer nix.close()
			environ = nix.setting(environ)
		}
	}
	b.teller.phase(schemas.Evaluate)
	say("running %s", shellwords.Join(argv))
	return b.children.run(argv, sourceDir, environ, stdout)
}
