package jobrun

import (
	"slices"
	"strings"
	"testing"

	"iglu.sh/builder/internal/jobenv"
)

// The program for the system on which the test runs can be run.
func TestSystemRuns(t *testing.T) {
	c := newChildren(func() {})
	defer c.close()
	own := systems[slices.IndexFunc(systems, func(s system) bool { return jobenv.Systems[s.goArch] == ownSystem() })]
	if !own.runs(c) {
		t.Errorf("this machine does not run the program for %s", ownSystem())
	}
	broken := own
	broken.machine = 0xfefe
	if broken.runs(c) {
		t.Error("it runs the program of a machine that there is not")
	}
	failing := own
	failing.exit = []byte{0, 0, 0, 0}
	if failing.runs(c) {
		t.Error("a program that does not end with 0 counts as run")
	}
}

func TestSystemSettings(t *testing.T) {
	for _, test := range []struct {
		system  string
		foreign []string
		others  string
		want    string // or
		err     string
	}{
		{"", nil, "", "", ""},
		{"", []string{"a-linux", "b-linux"}, "", "extra-extra-platforms = a-linux b-linux\n", ""},
		{ownSystem(), []string{"a-linux"}, "", "extra-extra-platforms = a-linux\n", ""},
		{"a-linux", []string{"a-linux", "b-linux"}, "", "system = a-linux\nextra-extra-platforms = a-linux b-linux " + ownSystem() + "\n", ""},
		{"a-linux", []string{"b-linux"}, "", "", "the job is for a-linux, whose programs"},
		{"a-linux", nil, "builders =\n", "", "the job is for a-linux, whose programs"},
		{"a-linux", nil, "builders = ssh://there a-linux\n", "system = a-linux\nextra-extra-platforms = " + ownSystem() + "\n", ""},
	} {
		got, err := systemSettings(jobenv.Job{System: test.system}, test.foreign, test.others)
		if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%+v: got %q, error %v", test, got, err)
		}
	}
}
