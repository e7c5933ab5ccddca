package jobrun

import (
	"strings"
	"testing"

	"iglu.sh/builder/internal/buildid"
)

func TestCheckBuild(t *testing.T) {
	const program = "/proc/self/exe"
	own, err := buildid.Of(program)
	if err != nil || own == "" {
		t.Fatalf("the test's own build is %q, %v", own, err)
	}
	if err := checkBuild(own, program); err != nil {
		t.Errorf("the same build: %v", err)
	}
	for builders, want := range map[string]string{
		"0123": "(build " + own + ") is not the builder's (build 0123)",
		"":     "is not the builder's (build unknown)", // of a builder before there were IDs
	} {
		if err := checkBuild(builders, program); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a builder of build %q: %v, want %q", builders, err, want)
		}
	}
}
