//go:build integration && long

package protocol

import (
	"os"
	"runtime"
	"testing"
	"time"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestTwoHundredJobs runs them in a row: nothing is more afterwards, on the engine
// or in the server.
func TestTwoHundredJobs(t *testing.T) { wantNoMore(t, fixture.Env.Server, 200) }

// TestFortyJobsOnPodman is the same there, where a job takes longer.
func TestFortyJobsOnPodman(t *testing.T) {
	e := fixture.OnPodman(t)
	wantNoMore(t, e.Server(t, func(*server.Settings) {}), 40)
}

// wantNoMore checks that a number of jobs leave nothing behind. No other test may run.
func wantNoMore(t *testing.T, s *fixture.Server, jobs int) {
	t.Helper()
	one := func() { fixture.WantExit(t, fixture.Do(t, s, fixture.Command("nix --version")), 0) }
	one() // what is made once for all jobs is there now
	fixture.WantNoContainers(t, s)
	before := countAll(t, s)
	for range jobs {
		one()
	}
	wantNotMore(t, s, before)
}

// counts are of things that a server's jobs could leave behind, by their kinds.
type counts map[string]int

// wantNotMore checks that there is soon no more of anything.
func wantNotMore(t *testing.T, s *fixture.Server, before counts) {
	t.Helper()
	var after counts
	isMore := func() bool {
		after = countAll(t, s)
		for kind := range after {
			if after[kind] > before[kind] {
				return true
			}
		}
		return false
	}
	if err := fixture.Poll(45*time.Second, func() bool { return !isMore() }); err != nil {
		t.Errorf("before: %v\nafter:  %v", before, after)
	}
}

func countAll(t *testing.T, s *fixture.Server) counts {
	t.Helper()
	count := make(counts)
	for _, kind := range []string{"container", "volume", "network"} {
		count[kind] = len(s.OnEngine(kind)) // of this server: other tests use the engine at the same time
	}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	count["goroutine"], count["file"] = runtime.NumGoroutine(), len(files)
	return count
}

// TestManyClientsInARow lets clients come and go in every way that is not a job.
func TestManyClientsInARow(t *testing.T) {
	fixture.WantFree(t, fixture.Env.Server) // what is made once for all jobs is there now
	fixture.WantNoContainers(t, fixture.Env.Server)
	before := countAll(t, fixture.Env.Server)
	for n := range 100 {
		c := fixture.Connect(t, fixture.Env.Server)
		switch n % 3 {
		case 0:
			c.Conn.NetConn().Close()
		case 1:
			c.Conn.Close()
		case 2:
			c.Send("{")
			if got := c.Finish(); len(got.Messages) != 1 {
				t.Errorf("client %d got %+v", n, got)
			}
			c.Conn.Close()
		}
	}
	fixture.WantFree(t, fixture.Env.Server)
	wantNotMore(t, fixture.Env.Server, before)
}
