//go:build integration && long

package isolation

import (
	"regexp"
	"strconv"
	"testing"
	"time"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestForkBomb starts processes without end: the bystander does not notice, and of the job
// nothing is left. The program may itself end for want of a thread: then the bomb is over.
func TestForkBomb(t *testing.T) { fixture.OnEngines(t, forkBomb) }

func forkBomb(t *testing.T, e *fixture.Engine) {
	b := startBystander(t, e, defaultNetwork(e))
	s := fixture.Attacker(t, e, func(s *server.Settings) { s.Limits.PIDs = 200 })
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command("attack fork-bomb")))
	atLimit := regexp.MustCompile(`no more than (\d+) tasks|failed to create new OS thread|(?i:resource temporarily unavailable)`)
	hits, code := 0, 0
	for message := ""; hits < 20 && code == 0; {
		if message, code = c.Read(); !atLimit.MatchString(message) {
			continue
		}
		hits++
		if n, err := strconv.Atoi(atLimit.FindStringSubmatch(message)[1]); err == nil && (n == 0 || n > 200) {
			t.Errorf("%d tasks", n)
		}
		if err := b.ask(); err != nil {
			t.Fatal(err)
		}
	}
	if hits == 0 {
		t.Error("the bomb did not come to its limit")
	}
	c.Conn.NetConn().Close()
	if err := fixture.Poll(time.Minute, func() bool { return len(s.Containers()) == 0 }); err != nil {
		t.Errorf("the bomb is still there: %v", err)
	}
}

// TestBuildsOnDisk has Nix build somewhere else than in /tmp, which is memory.
func TestBuildsOnDisk(t *testing.T) {
	fixture.OnEngines(t, func(t *testing.T, e *fixture.Engine) {
		s := e.Server(t, func(*server.Settings) {})
		got := fixture.Do(t, s, fixture.Command(`nix-build -E 'derivation { name = "where"; system = builtins.currentSystem; `+
			`builder = "/bin/sh"; args = ["-c" "echo in $NIX_BUILD_TOP; echo > $out"]; }'`))
		fixture.WantExit(t, got, 0)
		fixture.WantLine(t, got, "in /nix/var/nix/builds/")
	})
}
