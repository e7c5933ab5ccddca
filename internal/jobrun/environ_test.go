package jobrun

import (
	"slices"
	"testing"
)

func TestWithoutStoreVariables(t *testing.T) {
	kept, removed := withoutStoreVariables([]string{
		"PATH=/bin", "NIX_REMOTE=daemon", "NIX_CONF_DIR=/etc/nix", "NIX_STORE_DIR=", "NIX_REMOTE_SYSTEMS=", "NIX_STATE_DIR=/a=b", "NIX_PATH=x",
	})
	if want := []string{"PATH=/bin", "NIX_CONF_DIR=/etc/nix", "NIX_REMOTE_SYSTEMS=", "NIX_PATH=x"}; !slices.Equal(kept, want) {
		t.Errorf("kept %q, want %q", kept, want)
	}
	if want := []string{"NIX_REMOTE", "NIX_STATE_DIR"}; !slices.Equal(removed, want) {
		t.Errorf("removed %q, want %q", removed, want)
	}
}

func TestIsOlder(t *testing.T) {
	for _, test := range []struct {
		version, than string
		want          bool
	}{
		{"2.34.8", "2.34", false}, {"2.34", "2.34", false}, {"2.33.9", "2.34", true}, {"2.8.0", "2.34", true},
		{"3.0", "2.34", false}, {"1.99", "2.0", true}, {"2.35pre2026", "2.34", false},
	} {
		if got := isOlder(test.version, test.than); got != test.want {
			t.Errorf("%s older than %s: %v, want %v", test.version, test.than, got, test.want)
		}
	}
}
