package main

import (
	"bytes"
	"strings"
	"testing"

	"iglu.sh/builder/test/kit/fixture"
)

// TestBadTokenFiles starts servers that cannot know their token.
func TestBadTokenFiles(t *testing.T) {
	for name, want := range map[string]string{
		"/nonexistent":                                       "IGLU_TOKEN_FILE names a file that holds it",
		fixture.TokenFile(t, ""):                             "does not hold a token",
		fixture.TokenFile(t, "short"):                        "does not hold a token",
		fixture.TokenFile(t, fixture.GoodToken+" and words"): "does not hold a token",
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), []string{"serve", "--listen", "127.0.0.1:0", "--state-dir", t.TempDir(), "--token-file", name}, nil, &stdout, &stderr)
		if code != 1 || !strings.Contains(stderr.String(), want) {
			t.Errorf("exit code %d, %s", code, &stderr)
		}
	}
}
