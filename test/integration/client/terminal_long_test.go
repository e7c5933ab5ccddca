//go:build integration && long

package client

import (
	"bytes"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/buildclient"
	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
	"iglu.sh/builder/test/kit/termtest"
)

// TestTerminalEndsEarly interrupts jobs that are shown on a terminal.
func TestTerminalEndsEarly(t *testing.T) {
	begin := func(t *testing.T, s *fixture.Server) (*termtest.Terminal, *exec.Cmd) {
		term := termtest.Open(t, 100, 50)
		client := clientOf(s, "--command", "sh -c 'echo begun; sleep 1000'")
		term.Start(client)
		term.WantMatch(time.Minute, regexp.MustCompile(`(?m)^begun\n`+statusLine.String()[len("(?m)^"):]))
		return term, client
	}
	t.Run("Ctrl-C", func(t *testing.T) {
		s := fixture.ServerWith(t, func(s *server.Settings) { s.AllowedCommands = []string{"sh"} })
		term, client := begin(t, s)
		term.Type("\x03")
		wantClientEnd(t, term, client, 130)
		if want := "begun\niglu-builder build: the job was cancelled"; !strings.HasSuffix(term.Screen(), want) {
			t.Errorf("the screen does not end in %q:\n%s", want, term.Screen())
		}
		fixture.WantFree(t, s)
	})
	t.Run("the builder is gone", func(t *testing.T) {
		s := fixture.StartProcess(t, "--job-image", fixture.Env.Image, "--allowed-commands", "sh")
		term, client := begin(t, s)
		s.Kill()
		wantClientEnd(t, term, client, buildclient.ExitClient)
		if !strings.Contains(term.Screen(), "begun\niglu-builder build: the builder ended the connection without a result") {
			t.Errorf("the screen:\n%s", term.Screen())
		}
		fixture.Docker(t, append([]string{"rm", "--force"}, s.Containers()...)...) // it would end within a minute
	})
}

// TestExitCodeInEveryMode runs the same builds in every output mode.
func TestExitCodeInEveryMode(t *testing.T) {
	failing := `nix build --impure --no-link --print-out-paths --expr 'derivation { name = "broken"; system = builtins.currentSystem; builder = "/bin/sh"; ` +
		`args = [ "-c" "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22; do echo line $i; done; exit 9" ]; }'`
	for line, code := range map[string]int{"nix --version": 0, "sh -c 'exit 42'": 42, failing: 1} {
		term := termtest.Open(t, 100, 60)
		client := clientOf(fixture.Env.Server, "--command", line)
		term.Start(client)
		wantClientEnd(t, term, client, code)
		title := fmt.Sprintf("\nFailed with exit code %d after ", code)
		if code == 0 {
			title = "\nBuilt in "
		}
		if !strings.Contains(term.Screen(), title) {
			t.Errorf("no %q:\n%s", title, term.Screen())
		}
		if line == failing {
			var last strings.Builder
			for n := 3; n <= 22; n++ {
				fmt.Fprintf(&last, "\n  line %d", n)
			}
			if want := "broken failed; its last lines:" + last.String() + "\n  all of them: iglu-builder log "; !strings.Contains(term.Screen(), want) {
				t.Errorf("no %q:\n%s", want, term.Screen())
			}
		}
		for _, mode := range []string{"--json=false", "--json"} {
			client := clientOf(fixture.Env.Server, mode, "--command", line)
			var stdout, stderr bytes.Buffer
			client.Stdout, client.Stderr = &stdout, &stderr
			client.Run()
			if got := client.ProcessState.ExitCode(); got != code {
				t.Errorf("%s %s: exit code %d, want %d: %s", mode, line, got, code, &stderr)
			}
			if bytes.HasPrefix(stdout.Bytes(), []byte(`{"msg":"Start Building"`)) != (mode == "--json") {
				t.Errorf("%s prints %s", mode, &stdout)
			}
		}
	}
}
