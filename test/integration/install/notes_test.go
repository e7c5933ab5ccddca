//go:build integration

package install

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReleaseNotes checks that the notes of a release are the changelog's section of its version and nothing
// else. A version without a section is an error.
func TestReleaseNotes(t *testing.T) {
	changelog := filepath.Join(t.TempDir(), "CHANGELOG.md")
	text := "# Changelog\n\n## Unreleased\n\n- Later.\n\n## 1.2.3 - 2026-01-31\n\n### Added\n\n- This.\n\n## 1.2.30\n\n- That.\n"
	if err := os.WriteFile(changelog, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s := &stack{t: t}
	if got, want := s.must(s.run("scripts/release-notes", "1.2.3", changelog)), "### Added\n\n- This."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, err := s.run("scripts/release-notes", "1.2", changelog); err == nil || !strings.Contains(err.Error(), "no section '## 1.2 - DATE'") {
		t.Errorf("of a version that is not there: %q, %v", got, err)
	}
	if _, err := s.run("scripts/release-notes", "Unreleased"); err != nil {
		t.Errorf("of the repository's own: %v", err)
	}
}
