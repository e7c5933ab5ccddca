//go:build integration && long

package swarm

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/test/kit/fixture"
	"iglu.sh/builder/test/kit/lab"
)

// TestEngineKilled kills a node's engine in the middle of a job's output.
func TestEngineKilled(t *testing.T) {
	s := deploy(t, map[string]string{"IGLU_MAX_JOBS": "1"})
	bystanders := s.bystanders()
	jobs := s.oneOnEach()
	victim, met := jobs[1], s.met(jobs[1].node)
	if err := victim.node.Kill(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { victim.node.Start() })
	victim.wantLost()
	s.awaitLost(victim.node, met)
	jobs[0].goOn()
	jobs[0].wantAllLines()
	fixture.WantExit(t, fixture.Do(t, s.Server, fixture.Command("nix --version")), 0)

	if err := victim.node.Start(); err != nil {
		t.Fatal(err)
	}
	s.awaitMet(victim.node, met+1)
	s.wantNoJobs(victim.node)
	jobs[2].goOn()
	jobs[2].wantAllLines()
	s.wantJobOnEach()
	s.wantUntouched(bystanders)
}

// TestCutOff disconnects a node for a while. The other nodes continue, and nothing is left when it is connected again.
func TestCutOff(t *testing.T) {
	s := deploy(t, map[string]string{"IGLU_MAX_JOBS": "1"})
	bystanders := s.bystanders()
	node := s.lab.Nodes[2]
	t.Cleanup(func() { node.Heal() })

	// Short: no line is lost.
	jobs := s.oneOnEach()
	s.cut(node, 8*time.Second)
	for _, j := range jobs {
		j.goOn()
		j.wantAllLines()
	}

	// Long: the node counts as lost.
	jobs = s.oneOnEach()
	met := s.met(node)
	s.cut(node, 25*time.Second)
	jobs[2].wantLost()
	for _, j := range jobs[:2] {
		j.goOn()
		j.wantAllLines()
	}
	s.awaitMet(node, met+1)
	s.wantNoJobs(node)
	s.wantJobOnEach()

	// The node is not connected again before its job has ended.
	jobs, met = s.oneOnEach(), s.met(node)
	begun := time.Now()
	if err := node.Cut(); err != nil {
		t.Fatal(err)
	}
	jobs[2].wantLost()
	t.Logf("the client gets the message %s after the cut", time.Since(begun).Round(time.Second))
	jobs[1].goOn()
	jobs[1].wantAllLines()
	s.awaitLost(node, met)
	fixture.WantExit(t, fixture.Do(t, s.Server, fixture.Command("nix --version")), 0)
	s.awaitEnded(node) // without the server, which cannot reach the node
	if err := node.Heal(); err != nil {
		t.Fatal(err)
	}
	s.awaitMet(node, met+1)
	s.wantNoJobs(node)
	jobs[0].goOn()
	jobs[0].wantAllLines()
	s.wantJobOnEach()
	s.wantUntouched(bystanders)
}

// TestAgentUpdated replaces all agents with Swarm while each node has a job. The jobs are not affected.
func TestAgentUpdated(t *testing.T) {
	s := deploy(t, map[string]string{"IGLU_MAX_JOBS": "1"})
	jobs := s.oneOnEach()
	s.on(0, "service", "update", "--detach", "--force", s.name+"_agent")
	for left := jobs; len(left) > 0; {
		asked := -1
		s.await(func() bool { // one after the other, in an order that Swarm chooses
			for i, j := range left {
				if s.agentDrains(j.node) {
					asked = i
				}
			}
			return asked >= 0
		}, "no agent is asked to stop")
		j := left[asked]
		left = append(left[:asked:asked], left[asked+1:]...)
		j.goOn()
		j.wantAllLines()
		s.wantNoJobs(j.node) // it is removed through the agent that is stopping
	}
	s.await(func() bool {
		return s.on(0, "service", "inspect", "--format", "{{.UpdateStatus.State}}", s.name+"_agent") == "completed"
	}, "the update does not end")
	for _, n := range s.lab.Nodes {
		s.awaitMet(n, 2)
	}
	s.wantJobOnEach()
}

// cut disconnects a node for a time. The length of that time is tested, so real time has to pass.
func (s *stack) cut(n *lab.Node, while time.Duration) {
	s.t.Helper()
	if err := n.Cut(); err != nil {
		s.t.Fatal(err)
	}
	fixture.Pass(while)
	if err := n.Heal(); err != nil {
		s.t.Fatal(err)
	}
}

// awaitEnded waits until no container of a job runs on a node.
func (s *stack) awaitEnded(n *lab.Node) {
	s.t.Helper()
	if err := fixture.AwaitEngine(n.Host(), 2*time.Minute, func() bool {
		return s.on(slices.Index(s.lab.Nodes, n), "ps", "--quiet", "--filter", "label=sh.iglu.builder.instance="+s.name) == ""
	}); err != nil {
		s.t.Errorf("containers of jobs run on %s: %v", n.Name, err)
	}
}

// agentDrains reports whether the agent of a node was asked to stop and waits for a job. Tests poll it, because Swarm
// stops an agent at some unknown time.
func (s *stack) agentDrains(n *lab.Node) bool {
	for _, id := range s.containers(n, "agent") {
		logs := exec.Command("docker", "--host", n.Host(), "logs", id)
		if text, _ := logs.CombinedOutput(); strings.Contains(string(text), "asked to stop") {
			return true
		}
	}
	return false
}

// bystanders makes a container and a volume on each node that look like a builder's but are not. It returns their
// states.
func (s *stack) bystanders() (states []string) {
	s.t.Helper()
	for i, n := range s.lab.Nodes {
		name := s.name + "-bystander"
		s.on(i, "volume", "create", "--label", "sh.iglu.builder.instance="+name, name)
		s.on(i, "create", "--name", name, "--label", "sh.iglu.builder.instance="+name, "--volume", name+":/nix/other", fixture.Env.Image, "true")
		s.t.Cleanup(func() {
			n.Docker("rm", "--force", name)
			n.Docker("volume", "rm", name)
		})
		states = append(states, s.bystander(i))
	}
	return states
}

func (s *stack) bystander(i int) string {
	s.t.Helper()
	name := s.name + "-bystander"
	return s.on(i, "container", "inspect", "--format", "{{.ID}} {{.State.Status}}", name) + " " +
		s.on(i, "volume", "inspect", "--format", "{{.CreatedAt}}", name)
}

// wantUntouched checks that the states of the bystanders are the same as before.
func (s *stack) wantUntouched(before []string) {
	s.t.Helper()
	for i, n := range s.lab.Nodes {
		if now := s.bystander(i); now != before[i] {
			s.t.Errorf("the bystander of %s was %q and is %q", n.Name, before[i], now)
		}
	}
}
