package jobrun

import (
	"os"
	"path/filepath"
	"testing"
)

func TestCountsKill(t *testing.T) {
	for events, want := range map[string]bool{
		"low 0\nhigh 0\nmax 31\noom 4\noom_kill 2\noom_group_kill 0\n": true,
		"low 0\nhigh 0\nmax 31\noom 4\noom_kill 0\noom_group_kill 0\n": false,
		"oom_kill_disable 0\nunder_oom 0\noom_kill 1\n":                true,
		"oom_kill_disable 1\nunder_oom 1\noom_kill 0\n":                false,
		"oom_kill_disable 1\nunder_oom 1\n":                            false, // Linux before 4.13
	} {
		name := filepath.Join(t.TempDir(), "events")
		if err := os.WriteFile(name, []byte(events), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := countsKill(name); got != want {
			t.Errorf("%q: %t", events, got)
		}
	}
}
