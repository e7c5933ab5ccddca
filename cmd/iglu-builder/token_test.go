package main

import (
	"bytes"
	"strings"
	"testing"

	"iglu.sh/builder/test/kit/fixture"
)

// TestBadTokenFiles starts servers whose token files are invalid.
func TestBadTokenFiles(t *testing.T) {
	const noToken = " does not contain a token: 16 to 256 letters, digits or ._~-\nhint: make one with: openssl rand -hex 32"
	for name, want := range map[string]string{
		"/nonexistent":                                       "IGLU_TOKEN_FILE: open /nonexistent: no such file or directory",
		fixture.TokenFile(t, ""):                             noToken,
		fixture.TokenFile(t, "short"):                        noToken,
		fixture.TokenFile(t, fixture.GoodToken+" and words"): noToken,
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), []string{"serve", "--listen", "127.0.0.1:0", "--state-dir", t.TempDir(), "--token-file", name}, nil, &stdout, &stderr)
		if code != 1 || !strings.Contains(stderr.String(), want) {
			t.Errorf("exit code %d, %s", code, &stderr)
		}
	}
}
