package jobrun

import (
	"testing"

	"iglu.sh/builder/internal/jobenv"
)

func TestInParallel(t *testing.T) {
	for _, test := range []struct{ cpus, config, others, want string }{
		{"2", "", "", "max-jobs = 2\ncores = 2\n"},
		{"", "", "", ""},
		{"3", "max-jobs = 1\n", "", "cores = 3\n"},
		{"3", "cores = 1\nmax-jobs = 5", "", ""},
		{"3", "", "# max-jobs = 7\n cores  = 0\n", "max-jobs = 3\n"},
		{"3", "", "extra-max-jobs = 7\nmax-jobs\n", "max-jobs = 3\ncores = 3\n"},
	} {
		if got := inParallel(jobenv.Job{CPUs: test.cpus, NixConfig: test.config}, test.others); got != test.want {
			t.Errorf("%+v: got %q", test, got)
		}
	}
	if got := inParallel(jobenv.Job{CPUs: "1"}, ""); got != "max-jobs = 1\ncores = 1\n" {
		t.Errorf("without others: %q", got)
	}
}
