package main

import (
	"bytes"
	"testing"
)

func TestBuildCommandUsage(t *testing.T) {
	for _, args := range [][]string{{"build"}, {"build", "--no-such-flag", "-"}, {"build", "no-such-file.json"}} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), args, nil, &stdout, &stderr); code != 125 || stderr.Len() == 0 || stdout.Len() > 0 {
			t.Errorf("%v: exit code %d, stdout %q, stderr %q", args, code, &stdout, &stderr)
		}
	}
}
