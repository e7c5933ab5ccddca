//go:build integration

package logs

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

// colorful is an expression of a derivation that fails. It needs another derivation, whose builder prints
// colours and other text that Nix removes or changes without a terminal. %s is additional text to print.
const colorful = `let
  d = name: script: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; };
  wall = d "wall-1.0" ''
    printf '\033[36mcutting\033[0m\tblock \t 1\n\033[1;38;5;9mcold\033[0m  \n'
    printf 'plain\n\n\t\033[4:3mwavy\n50%%%%\r100%%%%\a\n\033[2K\033]0;title\007\033]8;;http://x\033\\link\033(B\033[1m \033[0m\t|\n'
    printf 'K\303\244lte \033[32m\xff\033[0m \033[33m\346\227\245\346\234\254\033[0m\t\xe2\x9c\x93 \033[7mok\033[0m\n'
    printf '%s\n'
    for n in 1 2 3 4 5 6 7 8 9; do printf "\033[3''${n}mn\033[0mo $n\n"; done
    echo > $out
  '';
  roof = d "roof-2.0" "echo ''${wall}; printf '\\033[1mroof.c:12: \\033[31merror:\\033[0m melts\\n'; exit 1";
in builtins.warn "thin ice" (builtins.trace "traced" roof)`

// escapes matches the control sequences that set colours.
var escapes = regexp.MustCompile(`\x1b\[[0-9;:]*m`)

// TestColors builds with and without colours in each wire format. Only the colours differ.
func TestColors(t *testing.T) {
	fixture.InFormats(t, func(t *testing.T, format schemas.Format) {
		j := fixture.Command(nixBuild(fmt.Sprintf(colorful, ""), "--print-build-logs"))
		build := func(colors bool) []string {
			j.Colors = colors
			r := fixture.DoIn(t, format, fixture.Env.Server, j)
			fixture.WantExit(t, r, 1)
			return r.Lines
		}
		ofNix := func(lines []string) []string {
			return slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return strings.HasPrefix(line, "iglu: ") })
		}
		plain, colored := ofNix(build(false)), ofNix(build(true))
		if text := strings.Join(plain, "\n"); strings.Contains(text, "\x1b") {
			t.Errorf("colours that were not requested:\n%q", text)
		}
		without := escapes.ReplaceAllString(strings.Join(colored, "\n"), "")
		if diff := cmp.Diff(plain, strings.Split(without, "\n")); diff != "" {
			t.Errorf("not only the colours differ (-without +with):\n%s", diff)
		}
		for _, want := range []string{
			"\x1b[35;1mevaluation warning:\x1b[0m thin ice",
			"\x1b[2mwall> \x1b[0m\x1b[36mcutting\x1b[0m   block    1",
			"\x1b[2mwall> \x1b[0m\x1b[1;38;5;9mcold\x1b[0m",
			"\x1b[2mwall> \x1b[0mplain",
			"\x1b[2mwall> \x1b[0m  \x1b[4:3mwavy",
			"\x1b[2mwall> \x1b[0m\x1b[39mn\x1b[0mo 9",
			"\x1b[2mroof> \x1b[0m\x1b[1mroof.c:12: \x1b[31merror:\x1b[0m melts",
			"       > \x1b[1mroof.c:12: \x1b[31merror:\x1b[0m melts",
			"       Reason: \x1b[31;1mbuilder failed with exit code 1\x1b[0m.",
		} {
			if !slices.Contains(colored, want) {
				t.Errorf("no line is %q", want)
			}
		}
	})
}

// TestSecretsInColors builds a derivation that prints a secret with colours around it and inside it.
func TestSecretsInColors(t *testing.T) {
	key := fixture.APIKey
	split := strings.Join(strings.Split(key, ""), `\033[31m\033[0m`)
	attacks := strings.Join([]string{
		`\033[31m` + key + `\033[0m`,
		key[:7] + `\033[1m` + key[7:],
		split,
		key[:5] + `\033[38;2;1;2;3m\033[4:3m\007\r` + key[5:] + `\033[0m`,
		key[:5] + `\033]0;t\007` + key[5:],
		key[:5] + `\033[2K\033[K` + key[5:],
	}, `\n`)
	j := fixture.Command(nixBuild(fmt.Sprintf(colorful, attacks), "--print-build-logs"))
	j.BuildOptions.Cachix.APIKey = key
	j.Colors = true
	story := tell(t, schemas.Document, fixture.Env.Server, j)
	masked := 0
	for _, line := range story.Lines {
		if strings.Contains(escapes.ReplaceAllString(line, ""), key) {
			t.Errorf("a secret shows in %q", line)
		}
		masked += strings.Count(line, "***")
	}
	if masked != 6 {
		t.Errorf("%d secrets are masked:\n%q", masked, story.Lines)
	}
}
