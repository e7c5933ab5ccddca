package nixstore

import (
	"regexp"
	"strings"
	"testing"
)

// TestIsPath compares IsPath with an expression, for paths with any byte in any place, and of any length.
func TestIsPath(t *testing.T) {
	form := regexp.MustCompile(`^/nix/store/[0-9a-df-np-sv-z]{32}-[0-9a-zA-Z+\-._?=]{1,211}$`)
	const good = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-hello+2.12_?=A.drv"
	if !form.MatchString(good) {
		t.Fatalf("%s is no path", good)
	}
	check := func(text string) {
		t.Helper()
		if got, want := IsPath(text), form.MatchString(text); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
	for i := range len(good) {
		for c := range 256 {
			check(good[:i] + string([]byte{byte(c)}) + good[i+1:])
		}
		check(good[:i])
		check(good[i:])
	}
	name := strings.Repeat("n", 211)
	check("/nix/store/" + strings.Repeat("0", 32) + "-" + name)
	check("/nix/store/" + strings.Repeat("0", 32) + "-" + name + "n")
	check("/nix/store/" + strings.Repeat("0", 33) + "-" + name)
	check(good + "\n")
	if n := testing.AllocsPerRun(10, func() { IsPath(good) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
