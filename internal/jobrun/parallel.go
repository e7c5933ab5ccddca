package jobrun

import (
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/nixconf"
)

// inParallel returns lines of nix.conf with which Nix uses all CPUs of the job: it builds as many
// derivations at once, and each may use as many CPUs. By default, Nix builds one derivation at a time, and
// uses all CPUs of the machine for it. Settings of the job, or in others, are not changed.
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
