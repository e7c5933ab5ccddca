package shellwords

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var splits = []struct {
	line string
	want []string
}{
	{``, nil},
	{` `, nil},
	{" \t ", nil},
	{`nix`, []string{"nix"}},
	{`nix build .#hello`, []string{"nix", "build", ".#hello"}},
	{"  nix\t\tbuild \t", []string{"nix", "build"}},

	{`''`, []string{""}},
	{`""`, []string{""}},
	{`'' "" ''`, []string{"", "", ""}},
	{`a '' b`, []string{"a", "", "b"}},
	{`a''b`, []string{"ab"}},
	{`''""''`, []string{""}},

	{`'a b'`, []string{"a b"}},
	{`'a  b'"  c "d`, []string{"a  b  c d"}},
	{`--arg x '{ y = "z"; }'`, []string{"--arg", "x", `{ y = "z"; }`}},
	{`'a"b' "c'd"`, []string{`a"b`, `c'd`}},
	{`'a\b' 'c\' d`, []string{`a\b`, `c\`, "d"}},
	{"'a\nb'", []string{"a\nb"}},
	{"\"a\nb\"", []string{"a\nb"}},
	{`'$HOME' '$(x)' '*' '#' ';'`, []string{"$HOME", "$(x)", "*", "#", ";"}},
	{`it''s' 'it`, []string{"its it"}},

	{`a\ b`, []string{"a b"}},
	{`\a\b\"\'\\`, []string{`ab"'\`}},
	{`\$HOME \* \# \; \& \~ \( \)`, []string{"$HOME", "*", "#", ";", "&", "~", "(", ")"}},
	{"\\\t", []string{"\t"}},
	{"a\\\nb", []string{"ab"}},
	{"a \\\n b", []string{"a", "b"}},
	{"\\\n", nil},
	{"a \\\n", []string{"a"}},
	{`\é\枝`, []string{"é枝"}},

	{`"a\"b"`, []string{`a"b`}},
	{`"\$x \` + "`" + `y \\z"`, []string{"$x `y \\z"}},
	{`"\a \' \n \ "`, []string{`\a \' \n \ `}},
	{"\"a\\\nb\"", []string{"ab"}},
	{"\"\\\n\"", []string{""}},
	{`"\é\枝"`, []string{`\é\枝`}},
	{`"\\"`, []string{`\`}},
	{`"\\\""`, []string{`\"`}},
	{`"; & | < > ( ) * ? [ ~ # ! { } ="`, []string{"; & | < > ( ) * ? [ ~ # ! { } ="}},

	{"a\rb", []string{"a\rb"}},
	{"a\u00a0b\u2028c\u3000d", []string{"a\u00a0b\u2028c\u3000d"}},
	{"\v \f", []string{"\v", "\f"}},
	{`-- -n -e`, []string{"--", "-n", "-e"}},
}

func TestSplit(t *testing.T) {
	for _, tt := range splits {
		got, err := Split(tt.line)
		if err != nil {
			t.Errorf("%q: %v", tt.line, err)
		} else if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.line, diff)
		}
	}
}

// The table itself is held against the shell, or it would be only our opinion.
func TestTableAgainstShell(t *testing.T) {
	dir := globbed(t)
	for _, tt := range splits {
		got, err := shell(dir, tt.line)
		if err != nil {
			t.Errorf("%q: sh: %v", tt.line, err)
		} else if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%q (-table +sh):\n%s", tt.line, diff)
		}
	}
}

// What a shell does beyond splitting, Split leaves undone.
func TestSplitDoesNothingElse(t *testing.T) {
	for line, want := range map[string][]string{
		`$HOME "$HOME" ${x} $(id) "$(id)" $((1))`: {"$HOME", "$HOME", "${x}", "$(id)", "$(id)", "$((1))"},
		"`id` \"`id`\"":                 {"`id`", "`id`"},
		`a;b && c || d & e | f > g < h`: {"a;b", "&&", "c", "||", "d", "&", "e", "|", "f", ">", "g", "<", "h"},
		`* ? [a-z] ~ ~root {a,b}`:       {"*", "?", "[a-z]", "~", "~root", "{a,b}"},
		`nix build # comment`:           {"nix", "build", "#", "comment"},
		`A=b if ! (x)`:                  {"A=b", "if", "!", "(x)"},
		"a\nb":                          {"a", "b"},
		"\xff 'a\x80b'":                 {"\xff", "a\x80b"},
	} {
		got, err := Split(line)
		if err != nil {
			t.Errorf("%q: %v", line, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", line, diff)
		}
	}
}

func TestSplitErrors(t *testing.T) {
	for line, want := range map[string]error{
		`'`:        errOpenQuote,
		`"`:        errOpenQuote,
		`a 'b`:     errOpenQuote,
		`a "b c`:   errOpenQuote,
		`"a\"`:     errOpenQuote,
		`'a\'b'`:   errOpenQuote,
		`"it's`:    errOpenQuote,
		"'a\n":     errOpenQuote,
		`a\`:       errBackslash,
		`\`:        errBackslash,
		`'a' \\\`:  errBackslash,
		"a \\\n\\": errBackslash,
	} {
		if words, err := Split(line); !errors.Is(err, want) {
			t.Errorf("%q: words %q and error %v, want %v", line, words, err, want)
		}
	}
	// Both are wrong with this one.
	if words, err := Split(`"a\`); err == nil {
		t.Errorf(`"a\: words %q and no error`, words)
	}
}

// globbed returns a folder where a glob that got past its quotes would match.
func globbed(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "match"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// shell returns the words that the real shell makes of line in dir, or its error.
func shell(dir, line string) ([]string, error) {
	sh := exec.Command("sh", "-c", `eval "set -- $1"; for w do printf '%s\0' "$w"; done`, "sh", line)
	sh.Dir = dir
	sh.Env = []string{}
	output, err := sh.Output()
	if err != nil {
		return nil, err
	}
	words := strings.Split(string(output), "\x00")
	words = words[:len(words)-1] // each is followed by a NUL
	if len(words) == 0 {
		return nil, nil
	}
	return words, nil
}

// tokens are the parts of a line: what is quoted, and each other character.
var tokens = regexp.MustCompile(`(?s)'[^']*'|"(?:\\.|[^"\\])*"|\\.|.`)

// Characters that make a shell do more than split: anywhere outside quotes, and
// between double quotes.
const (
	activeOutside  = "$`;&|<>()*?[]~#!{}=\n"
	activeInDouble = "$`"
)

var escaped = regexp.MustCompile(`(?s)\\.`)

// onlyQuotes reports whether a shell would do nothing with line but what Split does.
func onlyQuotes(line string) bool {
	const maxArgument = 64 << 10 // half of what Linux lets one argument have
	if len(line) > maxArgument || strings.ContainsRune(line, 0) || !utf8.ValidString(line) {
		return false
	}
	for _, token := range tokens.FindAllString(line, -1) {
		switch {
		case len(token) > 1 && token[0] == '"':
			if strings.ContainsAny(escaped.ReplaceAllString(token, ""), activeInDouble) {
				return false
			}
		case token[0] == '\'' || token[0] == '\\' && len(token) > 1: // quoted
		case token == `\`: // at the end, where POSIX leaves it open
			return false
		case strings.Contains(activeOutside, token):
			return false
		}
	}
	return true
}

func TestOnlyQuotes(t *testing.T) {
	for line, want := range map[string]bool{
		`a 'b $c' "d;" \$e "f\$"`: true,
		`a 'open`:                 true,
		`a "b $c"`:                false,
		`"'$a'"`:                  false,
		`a $b`:                    false,
		`a\`:                      false,
		"a\nb":                    false,
		"a\xff":                   false,
	} {
		if got := onlyQuotes(line); got != want {
			t.Errorf("%q: %v, want %v", line, got, want)
		}
	}
}

func FuzzSplit(f *testing.F) {
	for _, tt := range splits {
		f.Add(tt.line)
	}
	for _, line := range []string{`'`, `a "b`, `"a\"`, `'a\'b'`, `'a"b' "`, `a\`} {
		f.Add(line)
	}
	dir := globbed(f)
	f.Fuzz(func(t *testing.T, line string) {
		got, err := Split(line)
		if err == nil {
			checkJoin(t, got)
		}
		if !onlyQuotes(line) {
			return
		}
		want, shellErr := shell(dir, line)
		if (err != nil) != (shellErr != nil) {
			t.Fatalf("%q: Split: %q, error %v; sh: %q, error %v", line, got, err, want, shellErr)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-sh +Split):\n%s", line, diff)
		}
	})
}

// checkJoin looks whether Split makes the same words of their Join again.
func checkJoin(t *testing.T, words []string) {
	t.Helper()
	line := Join(words)
	got, err := Split(line)
	if err != nil || !slices.Equal(got, words) {
		t.Errorf("words %q, joined %q, split %q, error %v", words, line, got, err)
	}
}

// FuzzJoin makes words of any bytes but NUL, at which it cuts its input. As a process
// for each input makes coverage a matter of luck, run it with -fuzzminimizetime=5x.
func FuzzJoin(f *testing.F) {
	for _, tt := range splits {
		f.Add(strings.Join(tt.want, "\x00"))
		f.Add(tt.line)
	}
	for _, words := range []string{
		"", "\x00", "a\x00\x00b", "it's", "'", "''", `\`, `"`, "a\nb", "\n", "\t", "\r", "$HOME", "`id`", "$(id)", "*",
		"~", "~root", "a~", "a:~", "#", "#a", "a#b", "!", "{a,b}", "A=b", "a=~", "if", "-n", "--", "\x80\x81\x88\xff", "é枝",
	} {
		f.Add(words)
	}
	dir := globbed(f)
	f.Fuzz(func(t *testing.T, input string) {
		const maxInput = 16 << 10 // quoting makes up to five bytes of one
		if len(input) > maxInput {
			return
		}
		words := strings.Split(input, "\x00")
		checkJoin(t, words)
		got, err := shell(dir, Join(words))
		if err != nil || !slices.Equal(got, words) {
			t.Errorf("words %q, joined %q, by sh %q, error %v", words, Join(words), got, err)
		}
	})
}

func TestJoinOfNothing(t *testing.T) {
	checkJoin(t, nil)
	checkJoin(t, []string{""})
}

// A line for people: what needs no quotes has none.
func TestJoinReadsWell(t *testing.T) {
	words := []string{"nix", "build", ".#hello", "--option", "cores", "4", "--expr", "1 + 1", ""}
	const want = `nix build .#hello --option cores 4 --expr '1 + 1' ''`
	if got := Join(words); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
