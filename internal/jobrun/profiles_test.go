package jobrun

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMendProfiles(t *testing.T) {
	folder := t.TempDir()
	tests := []struct{ name, target, want string }{
		{"default", folder + "/default-1-link", "default-1-link"},
		{"channels", "channels-12-link", "channels-12-link"},
		{"other", folder + "/default-1-link", folder + "/default-1-link"},
		{"elsewhere", "/elsewhere/elsewhere-1-link", "/elsewhere/elsewhere-1-link"},
		{"default-1-link", "/nix/store/profile", "/nix/store/profile"},
		{"path", folder + "/path", folder + "/path"},
	}
	for _, test := range tests {
		if err := os.Symlink(test.target, filepath.Join(folder, test.name)); err != nil {
			t.Fatal(err)
		}
	}
	mendProfiles([]string{folder, filepath.Join(folder, "not-there")})
	for _, test := range tests {
		if got, err := os.Readlink(filepath.Join(folder, test.name)); err != nil || got != test.want {
			t.Errorf("%s leads to %q (%v), want %q", test.name, got, err, test.want)
		}
	}
	if entries, _ := os.ReadDir(folder); len(entries) != len(tests) {
		t.Errorf("%d links, want %d", len(entries), len(tests))
	}
}
