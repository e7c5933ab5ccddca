package jobrun

import "testing"

func TestCountsKill(t *testing.T) {
	for events, want := range map[string]bool{
		"low 0\nhigh 0\nmax 31\noom 4\noom_kill 2\noom_group_kill 0\n": true,
		"low 0\nhigh 0\nmax 31\noom 4\noom_kill 0\noom_group_kill 0\n": false,
		"oom_kill_disable 0\nunder_oom 0\noom_kill 1\n":                true,
		"oom_kill_disable 1\nunder_oom 1\noom_kill 0\n":                false,
		"oom_kill_disable 1\nunder_oom 1\n":                            false, // Linux before 4.13
	} {
		if got := countsKill(events); got != want {
			t.Errorf("%q: %t", events, got)
		}
	}
}
