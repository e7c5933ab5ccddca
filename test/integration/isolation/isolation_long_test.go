//go:build integration && long

package isolation

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestForkBomb runs a fork bomb. The bystander keeps answering, and nothing of the job is left. The bomb may
// also end early because Go cannot start a thread.
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
		t.Error("the bomb did not reach its limit")
	}
	c.Conn.NetConn().Close()
	if err := s.AwaitNoContainers(time.Minute); err != nil {
		t.Errorf("the bomb is still there: %v", err)
	}
}

// TestBuildsOnDisk checks that Nix does not build in /tmp, which is in memory.
func TestBuildsOnDisk(t *testing.T) {
	fixture.OnEngines(t, func(t *testing.T, e *fixture.Engine) {
		s := e.Server(t, func(*server.Settings) {})
		got := fixture.Do(t, s, fixture.Command(`nix-build -E 'derivation { name = "where"; system = builtins.currentSystem; `+
			`builder = "/bin/sh"; args = ["-c" "echo in $NIX_BUILD_TOP; echo > $out"]; }'`))
		fixture.WantExit(t, got, 0)
		fixture.WantLine(t, got, "in /nix/var/nix/builds/")
	})
}

// TestLimitsOnEngine reads a container's limits from the engine.
func TestLimitsOnEngine(t *testing.T) { fixture.OnEngines(t, limitsOnEngine) }

func limitsOnEngine(t *testing.T, e *fixture.Engine) {
	machine := strings.Fields(e.Docker(t, "info", "--format", "{{.MemTotal}} {{.NCPU}}"))
	total, _ := strconv.ParseFloat(machine[0], 64)
	cpus, _ := strconv.Atoi(machine[1])
	for _, test := range []struct {
		change func(*server.Settings)
		want   string
	}{
		{func(*server.Settings) {}, fmt.Sprintf("%d %d %d 4096", int64(0.75*total), int64(0.75*total), cpus*1e9)},
		{func(s *server.Settings) {
			s.Limits.Memory.Fixed, s.Limits.CPUs.Fixed, s.Limits.PIDs = 1<<30, 0.5, 100
		}, "1073741824 1073741824 500000000 100"},
	} {
		s := e.Server(t, test.change)
		c := fixture.Connect(t, s)
		c.Send(fixture.JSONOf(t, fixture.Command("sh -c 'echo begun; sleep 1000'")))
		c.WaitFor(`"begun"`)
		got := e.Docker(t, "inspect", "--format", "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}", s.JobContainer(t))
		if got != test.want {
			t.Errorf("memory, with swap, CPUs, processes: %s, want %s", got, test.want)
		}
		c.Conn.NetConn().Close()
		fixture.WantFree(t, s)
	}
}
