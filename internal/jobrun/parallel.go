package jobrun

import (
	"os"
	"strings"

	"iglu.sh/builder/internal/jobenv"
)

// nixConf is the file of Nix's settings in a job image.
const nixConf = "/etc/nix/nix.conf"

// inParallel returns the settings, as lines of nix.conf, by which Nix builds on all CPUs of the job:
// as many derivations at once, each of which may use as many. By itself it builds one at a time, and
// takes the machine's CPUs for its own. What the job and a file of settings say counts instead.
func inParallel(job jobenv.Job, file string) string {
	if job.CPUs == "" {
		return ""
	}
	inFile, _ := os.ReadFile(file) // not every image has one
	var lines strings.Builder
	for _, name := range []string{"max-jobs", "cores"} {
		if !sets(job.NixConfig, name) && !sets(string(inFile), name) {
			lines.WriteString(name + " = " + job.CPUs + "\n")
		}
	}
	return lines.String()
}

// sets reports whether one of some lines of nix.conf is a setting.
func sets(lines, name string) bool {
	for line := range strings.Lines(lines) {
		key, _, ok := strings.Cut(line, "=")
		if ok && strings.TrimSpace(key) == name {
			return true
		}
	}
	return false
}
