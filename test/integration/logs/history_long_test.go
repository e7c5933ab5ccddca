//go:build integration && long

package logs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestHistoryGoesWithLogs keeps two logs. Records without a log are removed, so it has two records.
func TestHistoryGoesWithLogs(t *testing.T) {
	s := fixture.ServerWith(t, func(s *server.Settings) { s.KeepLogs.Jobs = 2 })
	for range 4 {
		fixture.WantExit(t, fixture.Do(t, s, fixture.Command("sh -c true")), 0)
	}
	_, body := s.Get(t, "GET", "/api/v1/jobs")
	if n := strings.Count(body, `"id"`); n != 2 {
		t.Errorf("%d records are left: %s", n, body)
	}
}

// TestHistoryDamaged starts a builder with a damaged history file.
func TestHistoryDamaged(t *testing.T) {
	folder := t.TempDir()
	name := filepath.Join(folder, "damaged", "history.db")
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(strings.Repeat("no history", 10_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	output, err := exec.Command(fixture.Env.Program, "serve", "--listen", "127.0.0.1:0", "--instance", "damaged", "--state-dir", folder).CombinedOutput()
	if err == nil || !strings.Contains(string(output), name+" is damaged") || !strings.Contains(string(output), "hint: move the file away") {
		t.Errorf("%v: %s", err, output)
	}
}
