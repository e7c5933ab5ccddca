//go:build integration && long

package swarm

import (
	"strings"
	"testing"

	"iglu.sh/builder/test/kit/fixture"
)

// TestServerRestarted replaces the server with Swarm, first on its node and then on another. Clients of its jobs get a
// message, and the next server finds the nodes and their stores.
func TestServerRestarted(t *testing.T) {
	s := deploy(t, map[string]string{"IGLU_SHUTDOWN_GRACE": "1s"})
	bystanders := s.bystanders()
	url := s.repository()
	first := s.build(url, "sh -c 'echo begun; exit 3'")
	home := first.node
	fixture.WantLast(t, first.Finish(), 3)

	cut := s.count()
	s.on(0, "service", "update", "--detach", "--force", s.name+"_server")
	if got := cut.result(); len(got.Messages) != 1 || !strings.Contains(got.Messages[0], "The builder is shutting down.") {
		t.Errorf("the client of a job of the server that stops got %q", got.Messages)
	}
	s.follow()
	if _, body := s.Get(t, "GET", "/api/v1/jobs"); strings.Count(body, `"id":`) != 2 {
		t.Errorf("the new server on the same node has the history %s", body)
	}

	s.on(0, "service", "update", "--detach", "--constraint-rm", onFirst, "--constraint-add", "node.hostname == n3", s.name+"_server")
	s.follow()
	if s.Host != s.lab.Nodes[2].Host() {
		t.Errorf("the server is at %s", s.Host)
	}
	if _, body := s.Get(t, "GET", "/api/v1/jobs"); strings.Contains(body, `"id":`) {
		t.Errorf("the new server on another node has the history %s", body)
	}
	again := s.build(url, "sh -c 'echo begun; exit 3'")
	if again.node != home {
		t.Errorf("the repository's store is on %s, and its next job on %s", home.Name, again.node.Name)
	}
	fixture.WantLast(t, again.Finish(), 3)

	// A kill, like a loss of power: the server sends no messages, and Swarm starts another server.
	lost := s.count()
	s.on(2, "kill", s.containers(s.lab.Nodes[2], "server")[0])
	s.follow()
	s.awaitEnded(lost.node)
	s.wantJobOnEach()
	s.wantUntouched(bystanders)
}

// TestTwoServers runs two servers by mistake. The jobs of both end normally, and neither server removes the other's
// containers.
func TestTwoServers(t *testing.T) {
	s := deploy(t, nil)
	s.on(0, "service", "update", "--detach", "--constraint-rm", onFirst, "--replicas", "2", s.name+"_server")
	one := s.Server // keeps running, because the first node still meets the constraint
	s.follow()
	two := s.Server
	if one.Host == two.Host {
		t.Errorf("both servers are at %s", one.Host)
	}
	var jobs []*job
	for _, server := range []*fixture.Server{one, two} {
		for range s.lab.Nodes {
			jobs = append(jobs, s.countOn(server))
		}
	}
	for _, j := range jobs {
		j.goOn()
		j.wantAllLines()
	}
	s.on(0, "service", "scale", "--detach", s.name+"_server=1")
	s.await(func() bool {
		var left []*fixture.Server
		for _, server := range []*fixture.Server{one, two} {
			if !strings.Contains(server.Log.String(), `msg="shutting down"`) {
				left = append(left, server)
			}
		}
		if len(left) == 1 {
			s.Server = left[0]
		}
		return len(left) == 1
	}, "there is not one server")
	s.wantJobOnEach()
}
