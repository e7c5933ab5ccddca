//go:build integration

package agent

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestReplaced has an agent be asked to stop under a job, as an update does, while another of the same engine
// listens at another address: the next job runs through that, and the first goes on.
func TestReplaced(t *testing.T) {
	old := fixture.StartAgent(t, fixture.DockerEngine(), "127.0.0.1")
	fresh := old.Another(t, fixture.DockerEngine())
	s := fixture.ServerWith(t, func(s *server.Settings) {
		s.Nodes = []string{net.JoinHostPort("127.0.0.1", old.Port), net.JoinHostPort("127.0.0.1", fresh.Port)}
		s.AgentKeys = filepath.Join(old.Keys, "server")
		s.MaxJobs, s.MaxQueued = 2, 1
	})
	await := func(times int) {
		t.Helper()
		if err := s.Log.Await(time.Minute, func(text string) bool {
			return strings.Count(text, `msg="node connected" address=127.0.0.1:`) == times
		}); err != nil {
			t.Fatalf("%v\n%s", err, s.Log.String())
		}
	}
	await(1)
	if strings.Contains(s.Log.String(), `msg="node connected" address=127.0.0.1:`+fresh.Port) { // which was faster
		old, fresh = fresh, old
	}
	first := fixture.Connect(t, s)
	first.Send(fixture.JSONOf(t, fixture.Command("sh -c 'echo begun; while [ ! -e /tmp/go-on ]; do sleep 0.1; done; exit 5'")))
	first.WaitFor(`"begun"`)
	result := first.InBackground()
	old.Stop()
	await(2)
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("sh -c 'echo second'")), 0)
	if err := fixture.AwaitEngine(s.Host, time.Minute, func() bool { return len(s.JobContainers(t)) == 1 }); err != nil {
		t.Errorf("containers are left of the second job: %v", err)
	}
	fixture.GoOn(t, s)
	fixture.WantLast(t, <-result, 5)
	if err := old.Wait(); err != nil {
		t.Errorf("the old agent: %v\n%s", err, old.Log.String())
	}
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("sh -c 'echo third'")), 0)
	if strings.Contains(s.Log.String(), "node lost") {
		t.Errorf("its log:\n%s", s.Log.String())
	}
}
