package main

import (
	"os"
	"runtime"
	"testing"
	"time"
)

// TestTwoHundredJobs runs them in a row: nothing is more afterwards, on the engine
// or in the server.
func TestTwoHundredJobs(t *testing.T) { wantNoMore(t, world.server, 200) }

// TestFortyJobsOnPodman is the same there, where a job takes longer.
func TestFortyJobsOnPodman(t *testing.T) {
	e, err := podmanSite()
	if err != nil {
		t.Fatal(err)
	}
	wantNoMore(t, e.server(t, func(*settings) {}), 40)
}

// wantNoMore checks that a number of jobs leave nothing behind. No other test may run.
func wantNoMore(t *testing.T, s *server, jobs int) {
	t.Helper()
	one := func() { wantExit(t, do(t, s, command("nix --version")), 0) }
	one() // what is made once for all jobs is there now
	wantNoContainers(t, s)
	before := countAll(t, s)
	for range jobs {
		one()
	}
	wantNotMore(t, s, before)
}

// counts are of things that a server's jobs could leave behind, by their kinds.
type counts map[string]int

// wantNotMore checks that there is soon no more of anything.
func wantNotMore(t *testing.T, s *server, before counts) {
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
	if err := poll(45*time.Second, func() bool { return !isMore() }); err != nil {
		t.Errorf("before: %v\nafter:  %v", before, after)
	}
}

func countAll(t *testing.T, s *server) counts {
	t.Helper()
	count := make(counts)
	for _, kind := range []string{"container", "volume", "network"} {
		count[kind] = len(s.onEngine(kind)) // of this server: other tests use the engine at the same time
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
	wantFree(t, world.server) // what is made once for all jobs is there now
	wantNoContainers(t, world.server)
	before := countAll(t, world.server)
	for n := range 100 {
		c := connect(t, world.server)
		switch n % 3 {
		case 0:
			c.conn.NetConn().Close()
		case 1:
			c.conn.Close()
		case 2:
			c.send("{")
			if got := c.finish(); len(got.messages) != 1 {
				t.Errorf("client %d got %+v", n, got)
			}
			c.conn.Close()
		}
	}
	wantFree(t, world.server)
	wantNotMore(t, world.server, before)
}
