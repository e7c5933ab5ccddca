package schemas

import "testing"

func TestNearest(t *testing.T) {
	known := []string{"IGLU_PULL", "IGLU_URL", "IGLU_MAX_JOBS", "IGLU_JOB_PIDS", "IGLU_JOB_CPUS", "IGLU_TLS_CERT"}
	for name, want := range map[string]string{
		"IGLU_MAXJOBS":   "IGLU_MAX_JOBS",
		"IGLU_MAX_JOB":   "IGLU_MAX_JOBS",
		"IGLU_JOB_CPU":   "IGLU_JOB_CPUS",
		"IGLU_URI":       "IGLU_URL", // IGLU_PULL, which is similar as well, is further away
		"iglu-tls-cert":  "IGLU_TLS_CERT",
		"IGLU_WORKSPACE": "",
		"":               "",
	} {
		if got := Nearest(name, known); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
