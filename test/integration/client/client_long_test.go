//go:build integration && long

package client

import (
	"bytes"
	"strings"
	"testing"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

// TestBuildCommandInFormats sends a job in each wire format with the command-line client.
func TestBuildCommandInFormats(t *testing.T) {
	fixture.InFormats(t, func(t *testing.T, format schemas.Format) {
		for _, test := range []struct {
			line   string
			code   int
			stdout string
			stderr string
		}{
			{`printf "one\n\"two\"\n\n"`, 0, "one\n\"two\"\n\n", "Start Building\nBuild was successfull\n"},
			{"sh -c 'exit 42'", 42, "", "Builder exited with error code 42. the command ended with exit code 42."},
			{"make all", 2, "", "Invalid command: 'make all'. "},
		} {
			var stdout, stderr bytes.Buffer
			job := strings.NewReader(fixture.JobText(t, format, fixture.Command(test.line)))
			code := fixture.RunProgram(t.Context(), []string{"build", "--url", "ws://" + fixture.Env.Server.Address, "-"}, job, &stdout, &stderr)
			if code != test.code || !strings.HasSuffix(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("%s: exit code %d\nstdout %s\nstderr %s", test.line, code, &stdout, &stderr)
			}
		}
	})
}
