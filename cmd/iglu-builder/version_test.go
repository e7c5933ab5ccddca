package main

import (
	"io"
	"strings"
	"testing"
)

// TestVersion runs the subcommand, and the flag with the same result.
func TestVersion(t *testing.T) {
	for _, arg := range []string{"version", "--version"} {
		var stdout strings.Builder
		if code := run(t.Context(), []string{arg}, nil, &stdout, io.Discard); code != 0 {
			t.Errorf("%s: exit code %d", arg, code)
		}
		if fields := strings.Fields(stdout.String()); len(fields) < 3 || fields[0] != "iglu-builder" || !strings.HasPrefix(fields[len(fields)-1], "go1.") {
			t.Errorf("%s: %q", arg, &stdout)
		}
	}
}

// TestVersionOfBuild checks that the subcommand prints the values that a release's build sets.
func TestVersionOfBuild(t *testing.T) {
	version, revision = "1.2.3", "0123abc"
	defer func() { version, revision = "", "" }()
	var stdout strings.Builder
	if code := run(t.Context(), []string{"version"}, nil, &stdout, io.Discard); code != 0 || !strings.HasPrefix(stdout.String(), "iglu-builder 1.2.3 0123abc go1.") {
		t.Errorf("exit code %d, %q", code, &stdout)
	}
}
