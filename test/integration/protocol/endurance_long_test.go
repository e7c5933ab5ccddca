//go:build integration && long

package protocol

import (
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestTwoHundredJobs runs 200 jobs in sequence. Nothing is leaked on the engine or in the server.
func TestTwoHundredJobs(t *testing.T) { wantNoMore(t, fixture.Env.Server, 200) }

// TestFortyJobsOnPodman is the same on Podman, where a job takes longer.
func TestFortyJobsOnPodman(t *testing.T) {
	e := fixture.OnPodman(t)
	wantNoMore(t, e.Server(t, func(*server.Settings) {}), 40)
}

// wantNoMore checks that a number of jobs leave nothing behind. No other test may run.
func wantNoMore(t *testing.T, s *fixture.Server, jobs int) {
	t.Helper()
	one := func() { fixture.WantExit(t, fixture.Do(t, s, fixture.Command("nix --version")), 0) }
	one() // makes what exists once for all jobs
	fixture.WantNoContainers(t, s)
	before := fixture.CountAll(t, s)
	for range jobs {
		one()
	}
	fixture.WantNotMore(t, s, before)
}

// TestManyClientsInARow connects and disconnects clients in every way without a job.
func TestManyClientsInARow(t *testing.T) {
	fixture.WantFree(t, fixture.Env.Server) // makes what exists once for all jobs
	fixture.WantNoContainers(t, fixture.Env.Server)
	before := fixture.CountAll(t, fixture.Env.Server)
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
	fixture.WantNotMore(t, fixture.Env.Server, before)
}
