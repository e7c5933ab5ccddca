//go:build integration

package client

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/buildclient"
	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/internal/shellwords"
	"iglu.sh/builder/test/kit/fixture"
	"iglu.sh/builder/test/kit/termtest"
)

// slowBuild is a command that builds one derivation after the other. The second ends when a file exists in
// the container: see fixture.GoOn.
const slowBuild = `nix build --impure --no-link --print-out-paths --expr ` + slow

// slow is the expression that slowBuild builds.
const slow = `'let d = name: script: derivation { inherit name; ` +
	`system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/nix/var/nix/profiles/default/bin"; args = [ "-c" script ]; }; first = d "first" "echo > $out"; ` +
	`in d "second-one" "echo ${first}; echo the end of second; while [ ! -e /tmp/go-on ]; do sleep 0.1; done; echo > $out"'`

// clientOf returns the command-line client for a server, as a separate process.
func clientOf(s *fixture.Server, args ...string) *exec.Cmd {
	return exec.Command(fixture.Env.Program, append([]string{"build", "--url", "ws://" + s.Address}, args...)...)
}

// statusLine matches a line with the progress of a job.
var statusLine = regexp.MustCompile(`(?m)^(\d+/\d+ (built|pushed)|(running|starting|fetching the source|evaluating|building|pushing|ending) \d+s)\b.*$`)

// wantClientEnd waits for a client in a terminal to end, and checks that no status line is left.
func wantClientEnd(t *testing.T, term *termtest.Terminal, client *exec.Cmd, code int) {
	t.Helper()
	client.Wait()
	term.Finish()
	if got := client.ProcessState.ExitCode(); got != code {
		t.Errorf("exit code %d, want %d:\n%s", got, code, term.Screen())
	}
	if left := statusLine.FindString(term.Screen()); left != "" {
		t.Errorf("a part of a status line is left, %q:\n%s", left, term.Screen())
	}
}

// TestTerminal shows a real build on terminals of different widths. The width changes during the build.
func TestTerminal(t *testing.T) {
	wide := regexp.MustCompile(`(?m)^building \d+s · 1/2 built · second-one \d+s$`)
	narrow := regexp.MustCompile(`(?m)^(building \d+s · )?1/2 built · second-\S+ \d+s$`)
	status := map[int]*regexp.Regexp{40: narrow, 200: wide}
	for _, test := range []struct {
		command string
		widths  []int
	}{
		{slowBuild, []int{40, 200}},
		{slowBuild, []int{200, 40, 200}},
		{"nix-build --no-out-link -E " + slow, []int{40, 200}},
	} {
		t.Run(fmt.Sprint(test.command[:9], test.widths), func(t *testing.T) {
			term := termtest.Open(t, test.widths[0], 50)
			client := clientOf(fixture.Env.Server, "--command", test.command)
			term.Start(client)
			for _, width := range test.widths {
				term.Resize(width, 50)
				term.WantMatch(time.Minute, status[width])
				for _, line := range strings.Split(term.Screen(), "\n") {
					if statusLine.MatchString(line) && len([]rune(line)) >= width {
						t.Errorf("the status line fills the terminal: %s", line)
					}
				}
			}
			fixture.GoOn(t, fixture.Env.Server)
			wantClientEnd(t, term, client, 0)
			if screen := term.Screen(); !regexp.MustCompile(`(?m)^/nix/store/\S+-second-one\n\nBuilt in \d+\.\ds\n  phases  .*build \d+\.\ds`).MatchString(screen) {
				t.Errorf("the screen at the end:\n%s", screen)
			}
		})
	}
}

// TestNoColorOfUser sets NO_COLOR, as a user does.
func TestNoColorOfUser(t *testing.T) {
	for _, value := range []string{"", "1"} {
		term := termtest.Open(t, 100, 50)
		client := clientOf(fixture.Env.Server, "--command", `sh -c 'printf "\033[31mred\033[0m\n"; exit 3'`)
		client.Env = append(os.Environ(), "NO_COLOR="+value)
		term.Start(client)
		wantClientEnd(t, term, client, 3)
		if colours := strings.Contains(term.Bytes(), "\x1b[31m"); colours != (value == "") {
			t.Errorf("with NO_COLOR=%q, there are colours: %v", value, colours)
		}
	}
}

// TestColorsOfBuilder builds a derivation that prints colours. A terminal gets them. A file gets them only if
// the user asks for colours.
func TestColorsOfBuilder(t *testing.T) {
	const line = "\x1b[2mice> \x1b[0m\x1b[36mcold\x1b[0m enough"
	ice := fixture.Derivation("ice", `printf '\033[36mcold\033[0m enough\n'; echo > $out`)
	args := []string{"--command", shellwords.Join([]string{"nix", "build", "--impure", "--no-link", "--print-build-logs", "--expr", ice})}
	term := termtest.Open(t, 200, 50)
	client := clientOf(fixture.Env.Server, args...)
	term.Start(client)
	wantClientEnd(t, term, client, 0)
	if !strings.Contains(term.Bytes(), line) {
		t.Errorf("the terminal gets no line %q:\n%q", line, term.Bytes())
	}
	for want, args := range map[string][]string{"\nice> cold enough\n": args, "\n" + line + "\n": append(args, "--colors")} {
		printed, err := clientOf(fixture.Env.Server, args...).Output()
		if err != nil || !strings.Contains(string(printed), want) {
			t.Errorf("%v: no line %q:\n%q", err, want, printed)
		}
	}
}

// TestJobFromFlags clones with a key and pushes with keys that are not on the command line. Then it fetches
// the result with the command in the summary.
func TestJobFromFlags(t *testing.T) {
	c := fixture.NewCache(t)
	s := fixture.ServerWith(t, func(*server.Settings) {})
	term := termtest.Open(t, 250, 60)
	client := clientOf(s, "--repo", fixture.Env.Git.Private+"/hello", "--git-user", fixture.GitUser, "--push-to", c.URL)
	client.Env = append(os.Environ(), buildclient.EnvGitKey+"="+fixture.GitPassword, buildclient.EnvAPIKey+"="+fixture.APIKey, buildclient.EnvSigningKey+"="+fixture.SigningKey)
	term.Start(client)
	wantClientEnd(t, term, client, 0)
	screen := term.Screen()
	if err := fixture.CheckSecrets(term.Bytes()); err != nil {
		t.Error(err)
	}
	command := regexp.MustCompile(`(?m)^  get it  (nix-store --realise .*)$`).FindStringSubmatch(screen)
	if command == nil || !regexp.MustCompile(`(?m)^  pushed  1 path, .* to `+regexp.QuoteMeta(c.URL)+`$`).MatchString(screen) ||
		!regexp.MustCompile(`(?m)^  commit  [0-9a-f]{40}$`).MatchString(screen) {
		t.Fatalf("the screen:\n%s", screen)
	}
	output := fixture.Docker(t, "run", "--rm", "--env", "NIX_CONFIG=require-sigs = true\nsubstituters =", fixture.Env.Image, "sh", "-c",
		command[1]+" && cat $("+command[1]+")")
	if !strings.Contains("\n"+output+"\n", "\nHello from Iglu\n") { // warnings of Nix may be before or after it
		t.Errorf("%s prints %s", command[1], output)
	}
}
