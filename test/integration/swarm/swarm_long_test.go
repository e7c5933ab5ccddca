//go:build integration && long

package swarm

import (
	"fmt"
	"strings"
	"testing"

	"iglu.sh/builder/test/kit/fixture"
	"iglu.sh/builder/test/kit/lab"
)

// TestStack runs three jobs on three nodes at the same time. One of them prints a million lines. The agents do not get
// the server's key, because Swarm passes a secret only to the services that use it.
func TestStack(t *testing.T) {
	s := deploy(t, map[string]string{"IGLU_MAX_JOBS": "1"})
	secrets := func(service string) string {
		return s.on(0, "service", "inspect", "--format", "{{range .Spec.TaskTemplate.ContainerSpec.Secrets}}{{.SecretName}} {{end}}", s.name+"_"+service)
	}
	if !strings.Contains(secrets("server"), "iglu-server-key") || strings.Contains(secrets("agent"), "iglu-server-key") {
		t.Errorf("the server has the secrets %s, and an agent %s", secrets("server"), secrets("agent"))
	}
	first, second := s.count(), s.count()
	const million = 1_000_000
	third := s.begin(s.Server, fixture.Command(fmt.Sprintf("sh -c 'echo begun; seq %d; exit 5'", million)))
	if first.node == second.node || first.node == third.node || second.node == third.node {
		t.Errorf("the jobs are on %s, %s and %s", first.node.Name, second.node.Name, third.node.Name)
	}
	for n := 1; n <= million; n++ {
		if message, want := third.Next(), fmt.Sprintf(`{"stdout":"%d","jobStatus":"running"}`, n); message != want {
			t.Fatalf("line %d is %s", n, message)
		}
	}
	fixture.WantLast(t, third.Finish(), 5)
	first.goOn()
	first.wantAllLines()
	second.goOn()
	second.wantAllLines()
}

// TestEachNode runs a builder on each node that uses the node's own engine.
func TestEachNode(t *testing.T) {
	s := newStack(t)
	s.deploy("each-node.yml", object{"builder": object{"image": env.image, "environment": s.settings(nil)}})
	for _, n := range s.lab.Nodes {
		s.await(func() bool { return s.isHealthy(n, "builder") }, "no builder on "+n.Name)
		server := s.serverIn(n, s.containers(n, "builder")[0])
		fixture.WantExit(t, fixture.Do(t, server, fixture.Command("nix --version")), 0)
		if found, err := fixture.Listed(n.Host(), "volume", s.name); err != nil || len(found) == 0 {
			t.Errorf("the job was not on %s: its engine has the volumes %q, %v", n.Name, found, err)
		}
	}
}

// isHealthy reports whether the container of a service is healthy according to the node's engine.
func (s *stack) isHealthy(n *lab.Node, service string) bool {
	output, err := n.Docker("ps", "--quiet", "--filter", "health=healthy", "--filter", "label=com.docker.swarm.service.name="+s.name+"_"+service)
	return err == nil && output != ""
}
