package jobrun

import (
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/nixconf"
)

// inParallel returns the settings, as lines of nix.conf, by which Nix builds on all CPUs of the job:
// as many derivations at once, each of which may use as many. By itself it builds one at a time, and
// takes the machine's CPUs for its own. What the job and other lines of settings say counts instead.
func inParallel(job jobenv.Job, others string) string {
	if job.CPUs == "" {
		return ""
	}
	var lines nixconf.Lines
	for _, name := range []string{"max-jobs", "cores"} {
		if _, isSet := nixconf.Get(others+"\n"+job.NixConfig, name); !isSet {
			lines.Set(name, job.CPUs)
		}
	}
	return lines.String()
}
