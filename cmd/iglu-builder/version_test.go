package main

import (
	"io"
	"strings"
	"testing"
)

// TestVersion runs the subcommand.
func TestVersion(t *testing.T) {
	var stdout strings.Builder
	if code := run(t.Context(), []string{"version"}, nil, &stdout, io.Discard); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if fields := strings.Fields(stdout.String()); len(fields) < 3 || fields[0] != "iglu-builder" || !strings.HasPrefix(fields[len(fields)-1], "go1.") {
		t.Errorf("%q", &stdout)
	}
}
