//go:build integration

package podman

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/await"
	"iglu.sh/builder/test/kit/fixture"
)

// TestTwoNodes has a builder use two engines, one of Docker and one of Podman. Two jobs run at once, one on
// each; the agent of one goes away under its job, which is lost, and the other ends. The next runs on the node
// that is left.
func TestTwoNodes(t *testing.T) {
	t.Parallel()
	one, two := fixture.DockerEngine(), fixture.OnPodman(t)
	first := fixture.StartAgent(t, one, "127.0.0.1")
	second := first.Another(t, two)
	s := fixture.ServerWith(t, func(s *server.Settings) {
		s.Nodes = []string{net.JoinHostPort("127.0.0.1", first.Port), net.JoinHostPort("localhost", second.Port)}
		s.AgentKeys = filepath.Join(first.Keys, "server")
		s.MaxQueued = 1
	})
	t.Cleanup(func() { fixture.RemoveAll(two.Host, s.Instance) })
	onPodman := func() []string {
		found, err := fixture.Listed(two.Host, "container", s.Instance)
		if err != nil {
			t.Error(err)
		}
		return found
	}
	ready := func(want int) {
		t.Helper()
		if err := s.Log.Await(time.Minute, func(text string) bool {
			return strings.Count(text, `msg="a node is there"`)-strings.Count(text, `msg="a node is gone"`) == want
		}); err != nil {
			t.Fatal(err)
		}
	}
	ready(2)
	if status, text := s.Get(t, "GET", "/readyz"); status != 200 {
		t.Errorf("readyz: %d, %s", status, text)
	}
	const untilTold = "sh -c 'echo begun; while [ ! -e /tmp/go-on ]; do sleep 0.1; done; exit 5'"
	results := make(chan fixture.Result)
	for range 2 {
		c := fixture.Connect(t, s)
		c.Send(fixture.JSONOf(t, fixture.Command(untilTold)))
		c.WaitFor(`"begun"`)
		go func() { results <- <-c.InBackground() }() // a client that reads nothing counts as gone
	}
	if n := len(onPodman()); n != 1 || len(s.Containers()) != 1 {
		t.Fatalf("%d containers on one node, %d on the other", len(s.Containers()), n)
	}
	second.Kill()
	gone := await.Receive(t, results, "a client is told that the node is gone")
	fixture.WantEnd(t, s, "engine-gone")
	if gone.CloseCode != 1011 {
		t.Errorf("the client of the lost job got %+v", gone)
	}
	fixture.GoOn(t, s)
	fixture.WantLast(t, <-results, 5)
	ready(1)
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("nix --version")), 0)
}
