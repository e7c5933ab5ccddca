package jobrun

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestTheseAreThere(t *testing.T) {
	many := []string{"HEAD", "refs/tags/v1", "refs/pull/1/head"}
	for n := range 12 {
		many = append(many, fmt.Sprint("refs/heads/b", n))
	}
	for _, test := range []struct {
		refs []string
		want string
	}{
		{nil, "it is empty"},
		{many[:3], "it is empty"},
		{many[:5], "these branches are there: b0, b1"},
		{many[:13], "these branches are there: b0, b1, b2, b3, b4, b5, b6, b7, b8, b9"},
		{many, "these branches are there: b0, b1, b2, b3, b4, b5, b6, b7, b8, b9 and 2 more"},
	} {
		if got := theseAreThere(test.refs); got != test.want {
			t.Errorf("%q: %s, want %s", test.refs, got, test.want)
		}
	}
}

func TestCandidates(t *testing.T) {
	for ref, want := range map[string][]string{
		"main":             {"refs/heads/main", "refs/tags/main", "refs/main"},
		"pull/1/head":      {"refs/heads/pull/1/head", "refs/tags/pull/1/head", "refs/pull/1/head"},
		"refs/pull/1/head": {"refs/pull/1/head"},
	} {
		if got := candidates(ref); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", ref, got, want)
		}
	}
}

func TestIDs(t *testing.T) {
	for _, length := range []int{3, 4, 7, 39, 40, 41, 63, 64, 65} {
		id := strings.Repeat("a", length)
		if isFull, isShort := fullID().MatchString(id), shortID().MatchString(id); isFull != (length == 40 || length == 64) || !isFull && isShort != (length > 3 && length < 64) {
			t.Errorf("of %d characters: full %t, short %t", length, isFull, isShort)
		}
	}
	if fullID().MatchString(strings.Repeat("A", 40)) || shortID().MatchString("main") || !shortID().MatchString("AbC1") {
		t.Error("what is no id")
	}
}

// An id in capitals is one of a commit, and not the name of a branch.
func TestRefOf(t *testing.T) {
	for branch, want := range map[string]string{
		"": "", "HEAD": "", "main": "main", "Feature/ABC": "Feature/ABC", "ABCDEF0": "ABCDEF0", "-x": "-x",
		strings.Repeat("aB", 20): strings.Repeat("ab", 20), strings.Repeat("A1", 32): strings.Repeat("a1", 32),
	} {
		if got := refOf(branch); got != want {
			t.Errorf("%s: %s, want %s", branch, got, want)
		}
	}
}
