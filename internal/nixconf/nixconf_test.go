package nixconf

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	const text = "# a comment\n\nmax-jobs = 4 # and one\n  extra-substituters = https://a  https://b \nempty =\n"
	got, err := Parse(text)
	want := []Setting{{3, "max-jobs", "4"}, {4, "extra-substituters", "https://a https://b"}, {5, "empty", ""}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	if base := got[1].Base(); base != "substituters" {
		t.Errorf("Base: %s", base)
	}
	if diff := cmp.Diff([]string{"https://a", "https://b"}, got[1].Words()); diff != "" {
		t.Errorf("Words (-want +got):\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"a = 1\nsecret words":        "line 2 ",
		"include /etc/other.conf":    "line 1 ",
		"max-jobs=4":                 "line 1 ",
		"= value":                    "line 1 ",
		"\n\n!include secret = here": "line 3 ",
	} {
		if _, err := Parse(text); err == nil || err.Error() != want+"is not of the form NAME = VALUE, with spaces around the =" {
			t.Errorf("%q: error %v, want %s", text, err, want)
		}
	}
}

func TestGet(t *testing.T) {
	const text = "include other.conf\n# max-jobs = 1\ncores = 2\nbuilders=\nextra-substituters = x\nbuild-cores = 3 4\nsandbox =\n"
	for name, want := range map[string]struct {
		value string
		ok    bool
	}{"cores": {"3 4", true}, "sandbox": {"", true}, "max-jobs": {}, "include": {}, "other.conf": {}, "builders": {}, "substituters": {}} {
		if value, ok := Get(text, name); value != want.value || ok != want.ok {
			t.Errorf("%s: %q, %v; want %+v", name, value, ok, want)
		}
	}
}

func TestList(t *testing.T) {
	const text = "extra-access-tokens = z=0\naccess-tokens = a=1\nextra-access-tokens = b=2 c=3\ninclude other.conf\n"
	for name, want := range map[string][]string{"access-tokens": {"a=1", "b=2", "c=3"}, "cores": nil} {
		if diff := cmp.Diff(want, List(text, name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestHasCADerivations(t *testing.T) {
	for text, want := range map[string]bool{
		"": false,
		"extra-experimental-features = ca-derivations":                                        true,
		"experimental-features = flakes ca-derivations # why":                                 true,
		"extra-experimental-features = ca-derivations\nextra-experimental-features = flakes":  true,
		"extra-experimental-features = ca-derivations\nexperimental-features = flakes":        false,
		"experimental-features = flakes\n# extra-experimental-features = ca-derivations":      false,
		"extra-experimental-features = dynamic-derivations\nsystem-features = ca-derivations": false,
	} {
		if got := HasCADerivations(text); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}

// TestReadFile reads a file that includes others, which are relative to it, and one that includes itself.
func TestReadFile(t *testing.T) {
	folder := t.TempDir()
	elsewhere := filepath.Join(t.TempDir(), "absolute.conf")
	for name, text := range map[string]string{
		filepath.Join(folder, "nix.conf"):        "a = 1\ninclude sub/first.conf # why\n!include gone.conf\ninclude " + elsewhere + "\n# include loop.conf\nb = include sub/first.conf\n",
		filepath.Join(folder, "sub/first.conf"):  "c = 1\n!include second.conf",
		filepath.Join(folder, "sub/second.conf"): "d = 1",
		filepath.Join(folder, "loop.conf"):       "e = 1\ninclude loop.conf\n",
		elsewhere:                                "f = 1\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	settings, err := Parse(ReadFile(filepath.Join(folder, "nix.conf")))
	for _, s := range settings {
		got = append(got, s.Name+" = "+s.Value)
	}
	if diff := cmp.Diff([]string{"a = 1", "c = 1", "d = 1", "f = 1", "b = include sub/first.conf"}, got); diff != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	if value, _ := Get(ReadFile(filepath.Join(folder, "loop.conf")), "e"); value != "1" {
		t.Errorf("in a file that includes itself: %q", value)
	}
	if text := ReadFile(filepath.Join(folder, "gone.conf")); text != "" {
		t.Errorf("of no file: %q", text)
	}
}

func TestAliases(t *testing.T) {
	for name, want := range map[string]string{"extra-binary-caches": "substituters", "binary-cache-public-keys": "trusted-public-keys", "extra-trusted-users": "trusted-users"} {
		if got := (Setting{Name: name}).Base(); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// Values that would become lines of their own are left out.
func TestLines(t *testing.T) {
	var lines Lines
	lines.Set("cores", 2)
	lines.Set("max-jobs", "1\ntrusted-users = *")
	lines.SetList("substituters", []string{"https://a", "https://b\npost-build-hook = x", "https://c d", "", "#e", "https://b"})
	lines.SetList("none", nil)
	lines.SetList("bad", []string{"a\rb", "a\x00"})
	if got, want := lines.String(), "cores = 2\nsubstituters = https://a https://b\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
