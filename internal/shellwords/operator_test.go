package shellwords

import "testing"

func TestOperator(t *testing.T) {
	for line, want := range map[string]string{
		"":                                      "",
		"nix build .#hello":                     "",
		"nix build .#a && nix build .#b":        "&&",
		"nix build .#a || true":                 "||",
		"nix build | tee log":                   "|",
		"nix build |& tee log":                  "|&",
		"nix build & wait":                      "&",
		"nix build ; nix build .#b":             ";",
		"nix build; nix build .#b":              ";",
		"nix build .#'a'; true":                 ";",
		"nix build 'a;'":                        "",
		`nix build a\;`:                         "",
		"nix build a ;;":                        ";;",
		"nix run .#app > file":                  ">",
		"nix run .#app >file":                   ">",
		"nix run .#app >> file":                 ">>",
		"nix run .#app 2>&1":                    ">&",
		"nix run .#app 2> errors":               ">",
		"nix run .#app < file":                  "<",
		"nix run .#app <<< text":                "<<<",
		"nix run .#app -- '>' \"|\" \\&\\& ';'": "",
		"nix run .#app -- x>y":                  "",
		"nix-build <nixpkgs> -A hello":          "",
		"nix-build <nixpkgs/nixos>":             "",
		"nix-build <nixpkgs":                    "<",
		"nix build git+https://h/r?a=b&ref=c":   "",
		"nix build $(cat name)":                 "$(",
		"nix build `cat name`":                  "`",
		"nix build '$(cat name)'":               "",
		`nix build "$(cat name)"`:               "",
		"nix build a$(cat name)":                "",
		"nix eval --expr '1 && 2; 3 > 4'":       "",
		"nix eval --expr 'a'\\;":                "",
		"nix build 'open":                       "", // Split says what is wrong
		"nix eval --expr (1+2)":                 "",
		"nix build &&'a'":                       "",
	} {
		if got := Operator(line); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

func TestShow(t *testing.T) {
	for want, words := range map[string][]string{
		"nix build '.#a b'":                     {"nix", "build", ".#a b"},
		`nix eval --expr $'1 # one\n + 2'`:      {"nix", "eval", "--expr", "1 # one\n + 2"},
		`$'tab\t"quoted" \x1b[31m back\\slash'`: {"tab\t\"quoted\" \x1b[31m back\\slash"},
		"''":                                    {""},
	} {
		if got := Show(words); got != want {
			t.Errorf("%q: %s, want %s", words, got, want)
		}
	}
}

func TestSplitLineEnds(t *testing.T) {
	for line, want := range map[string]int{
		"a\r\nb":   2,
		"a \r\n b": 2,
		"a\\\r\nb": 1,
		"a\rb":     1,
		"'a\r\nb'": 1,
	} {
		if words, err := Split(line); err != nil || len(words) != want {
			t.Errorf("%q: %q, %v, want %d words", line, words, err, want)
		}
	}
	words, _ := Split("'a\r\nb' \"c\nd\"")
	if words[0] != "a\r\nb" || words[1] != "c\nd" {
		t.Errorf("in quotes, line ends became %q", words)
	}
}
