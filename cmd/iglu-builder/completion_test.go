package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestCompletionOfCommands checks what a shell offers to complete a word.
func TestCompletionOfCommands(t *testing.T) {
	for _, test := range []struct {
		words []string
		want  string // the lines, and the directive of cobra: 4 is no files, 0 is files, 8 is files with the extensions, 16 is folders
	}{
		{[]string{"serve", "--pull", ""}, "missing always never :4"},
		{[]string{"serve", "--log-level", "d"}, "debug info warn error :4"},
		{[]string{"serve", "--push-upstream", ""}, "yes no :4"},
		{[]string{"serve", "--listen", ""}, ":4"},
		{[]string{"serve", "--token-file", ""}, ":0"},
		{[]string{"stores", "--state-dir", ""}, ":16"},
		{[]string{"build", "--repo", ""}, ":4"},
		{[]string{"build", "--git-key-file", ""}, ":0"},
		{[]string{"build", ""}, "json :8"},
		{[]string{"jobs", "--state", ""}, "unended waiting running succeeded failed :4"},
		{[]string{"jobs", "--repo", ""}, ":4"},
		{[]string{"jobs", ""}, ":4"},
		{[]string{"log", ""}, ":4"},
		{[]string{"log", "--token-file", ""}, ":0"},
		{[]string{"watch", "--url", ""}, ":4"},
		{[]string{"agent", "--log-format", ""}, "text json :4"},
		{[]string{"agent", "check", "--agent-keys", ""}, ":16"},
		{[]string{"agent", "keys", ""}, ":16"},
		{[]string{"cleanup", "--agent-keys", ""}, ":16"},
		{[]string{"healthcheck", "--url", ""}, ":4"},
		{[]string{"version", ""}, ":4"},
		{[]string{"serve", ""}, ":4"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), append([]string{"__complete"}, test.words...), nil, &stdout, &stderr); code != 0 {
			t.Errorf("%q: exit code %d, %s", test.words, code, &stderr)
		}
		if got := strings.Join(strings.Fields(stdout.String()), " "); got != test.want {
			t.Errorf("%q: %q, want %q", test.words, got, test.want)
		}
	}
}
