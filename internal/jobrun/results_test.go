package jobrun

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/shellwords"
	"iglu.sh/builder/schemas"
)

func storePath(name string) string { return "/nix/store/93s9qh4dv29fnalqrgc9pg8ks6w68cnd-" + name }

func TestResults(t *testing.T) {
	a, b, man := storePath("a"), storePath("b"), storePath("a-man")
	type result struct {
		Installable string
		Paths       []string
	}
	for name, test := range map[string]struct {
		command string
		links   map[string]string
		printed []string
		want    []result
	}{
		"nothing":                  {"nix build --no-link", nil, nil, nil},
		"the default":              {"nix build -L --print-out-paths", map[string]string{"result": a}, []string{a}, []result{{".", []string{a}}}},
		"without links":            {"nix build --no-link --print-out-paths", nil, []string{a, man}, []result{{".", []string{a, man}}}},
		"two outputs":              {"nix build .#a^*", map[string]string{"result": a, "result-man": man}, nil, []result{{".#a^*", []string{a, man}}}},
		"two installables":         {"nix build --max-jobs 4 .#a .#b", map[string]string{"result": a, "result-1": b}, nil, []result{{".#a", []string{a}}, {".#b", []string{b}}}},
		"two, printed":             {"nix build --no-link --print-out-paths .#a .#b", nil, []string{a, b}, []result{{".#a", []string{a}}, {".#b", []string{b}}}},
		"two, of which is not so":  {"nix build --no-link --print-out-paths .#a .#b", nil, []string{a, man, b}, []result{{"", []string{a, man, b}}}},
		"another link":             {"nix build -o out/app .#a", map[string]string{"out/app": a, "result": b, "out/apple": b}, nil, []result{{".#a", []string{a}}}},
		"an unknown option":        {"nix build --colour red .#a", map[string]string{"result": a}, []string{a}, []result{{"", []string{a}}}},
		"compound options":         {"nix build -Lvj4 .#a", map[string]string{"result": a}, nil, []result{{".#a", []string{a}}}},
		"nix-build with jobs":      {"nix-build -j4 -QA a", map[string]string{"result": a}, []string{a}, []result{{"a", []string{a}}}},
		"the end of options":       {"nix build -L -- .#a -Lx", map[string]string{"result": a, "result-1": b}, nil, []result{{".#a", []string{a}}, {"-Lx", []string{b}}}},
		"an option without end":    {"nix build .#a --option cores", nil, []string{a}, []result{{"", []string{a}}}},
		"nix-build":                {"nix-build default.nix -A a -A b", map[string]string{"result": a, "result-2": b}, []string{a, b}, []result{{"a", []string{a}}, {"b", []string{b}}}},
		"nix-build without a name": {"/bin/nix-build", map[string]string{"result": a}, []string{a}, []result{{"", []string{a}}}},
		"another command":          {"nix eval --raw .#a", nil, []string{a}, []result{{"", []string{a}}}},
		"another program":          {"sh -c true", map[string]string{"result": a}, nil, nil},
		"other links":              {"nix build", map[string]string{"result": "/etc/passwd", "result-x y": a}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for link, to := range test.links {
				link = filepath.Join(dir, link)
				if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(to, link); err != nil {
					t.Fatal(err)
				}
			}
			argv, err := shellwords.Split(test.command)
			if err != nil {
				t.Fatal(err)
			}
			var got []result
			for _, r := range resultsOf(argv, test.printed, dir) {
				got = append(got, result{r.Installable, r.Paths})
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The link may be anywhere.
func TestResultsOfAbsoluteLink(t *testing.T) {
	link := filepath.Join(t.TempDir(), "app")
	if err := os.Symlink(storePath("a"), link); err != nil {
		t.Fatal(err)
	}
	got := resultsOf([]string{"nix", "build", "--out-link", link, ".#a"}, nil, t.TempDir())
	if diff := cmp.Diff([]schemas.Result{{Installable: ".#a", Paths: []string{storePath("a")}}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The number of reported results is limited.
func TestResultsBounded(t *testing.T) {
	var printed []string
	for range maxResults + 5 {
		printed = append(printed, storePath("a"))
	}
	got := resultsOf([]string{"nix", "build", "--no-link", strings.Repeat("x", 2*maxInstallable)}, printed, t.TempDir())
	if len(got) != 1 || len(got[0].Paths) != maxResults || len(got[0].Installable) > maxInstallable+len("…") {
		t.Errorf("%d results, %d paths", len(got), len(got[0].Paths))
	}
}
