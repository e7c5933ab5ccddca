//go:build integration

package podman

import (
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/test/kit/await"
	"iglu.sh/builder/test/kit/fixture"
)

// TestTwoNodes runs a builder with two nodes, one with Docker and one with Podman, and a job on each. The agent of
// one node is killed. Its job is lost, the other job ends normally, and the next job runs on the other node. The
// page, the API, the metrics and the command stores distinguish the nodes. Both have the name of this machine, so
// the builder adds the address to the name of the second.
func TestTwoNodes(t *testing.T) {
	t.Parallel()
	one, two := fixture.DockerEngine(), fixture.OnPodman(t)
	first := fixture.StartAgent(t, one, "127.0.0.1")
	second := first.Another(t, two)
	addresses := []string{net.JoinHostPort("127.0.0.1", first.Port), net.JoinHostPort("127.0.0.1", second.Port)}
	s := fixture.ServerWith(t, func(s *server.Settings) {
		s.Nodes = addresses
		s.Store = stores.Shared
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
			return strings.Count(text, `msg="node connected"`)-strings.Count(text, `msg="node lost"`) == want
		}); err != nil {
			t.Fatal(err)
		}
	}
	ready(2)
	if status, text := s.Get(t, "GET", "/readyz"); status != 200 {
		t.Errorf("readyz: %d, %s", status, text)
	}
	if before := fixture.Nodes(t, s); len(before) != 2 || !before[0].Up || !before[1].Up || before[0].CPUs == 0 || !strings.HasPrefix(before[1].Name, before[0].Name+" (127.0.0.1:") {
		t.Fatalf("before there is a job, the nodes are %+v", before)
	}
	const untilTold = "sh -c 'echo begun; while [ ! -e /tmp/go-on ]; do sleep 0.1; done; exit 5'"
	results := make(chan fixture.Result)
	for range 2 {
		c := fixture.Connect(t, s)
		c.Send(fixture.JSONOf(t, fixture.Command(untilTold)))
		c.WaitFor(`"begun"`)
		go func() { results <- <-c.InBackground() }() // reads on: a client that does not read is dropped
	}
	if n := len(onPodman()); n != 1 || len(s.Containers()) != 1 {
		t.Fatalf("%d containers on one node, %d on the other", len(s.Containers()), n)
	}
	names := make(map[string]string) // of the jobs' nodes
	for _, n := range fixture.Nodes(t, s) {
		if n.Running != 1 || n.Slots != 1 {
			t.Errorf("with a job on each, a node is %+v", n)
		}
	}
	var jobs struct{ Jobs []history.Record }
	fixture.Read(t, s, "/api/v1/jobs", &jobs)
	for _, job := range jobs.Jobs {
		names[job.Node] = job.Job
		if _, page := s.Get(t, "GET", "/jobs/"+job.Job); !strings.Contains(page, "on node <span>"+job.Node+"</span>") {
			t.Errorf("the page of %s does not say that it is on %s", job.Job, job.Node)
		}
	}
	if len(names) != 2 || names[""] != "" {
		t.Errorf("the jobs' records are of the nodes %v", names)
	}
	if output, code := storesOf(s, addresses, first.Keys); code != 0 || strings.Count(output, "(all jobs)") != 2 || !strings.Contains(output, "NAME") || !strings.Contains(output, "NODE") {
		t.Errorf("the stores: %d, %s", code, output)
	}
	fixture.WantNumbers(t, fixture.Scrape(t, s, ""), "iglu_builder_jobs_max 2", "iglu_builder_jobs_running 2")
	second.Kill()
	lost := await.Receive(t, results, "the client of the lost job gets its result")
	fixture.WantEnd(t, s, "engine-gone")
	if lost.CloseCode != 1011 {
		t.Errorf("the client of the lost job got %+v", lost)
	}
	fixture.Read(t, s, "/api/v1/jobs?state=failed", &jobs)
	if len(jobs.Jobs) != 1 || !strings.HasPrefix(jobs.Jobs[0].Reason, "on node "+jobs.Jobs[0].Node+" the container engine ") {
		t.Errorf("the job that is lost is %+v", jobs.Jobs)
	}
	fixture.GoOn(t, s)
	fixture.WantLast(t, <-results, 5)
	ready(1)
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("nix --version")), 0)
	if left := fixture.Nodes(t, s); len(left) != 2 || left[0].Up == left[1].Up || left[0].Problem+left[1].Problem != "The container engine does not answer." {
		t.Errorf("without the second, the nodes are %+v", left)
	}
	if status, text := s.Get(t, "GET", "/readyz"); status != 200 {
		t.Errorf("readyz with one node: %d, %s", status, text)
	}
	fixture.WantNumbers(t, fixture.Scrape(t, s, ""), "iglu_builder_jobs_max 1")
	away := "node " + addresses[1] + ": The container engine does not answer. ("
	output, code := "", 0
	if err := fixture.AwaitEngine(one.Host, time.Minute, func() bool { // waits until nothing uses the store any more
		output, code = storesOf(s, addresses, first.Keys, "rm", "--all")
		return strings.Count(output, "removed store") == 1
	}); err != nil || code != 1 || !strings.Contains(output, away) {
		t.Errorf("removing the stores that are left: %v, %d, %s", err, code, output)
	}
}

// storesOf runs the command stores for a server with nodes.
func storesOf(s *fixture.Server, addresses []string, keys string, args ...string) (output string, code int) {
	command := exec.Command(fixture.Env.Program, append([]string{"stores", "--instance", s.Instance, "--state-dir", s.StateDir,
		"--agent-keys", filepath.Join(keys, "server"), "--nodes", strings.Join(addresses, ",")}, args...)...)
	text, _ := command.CombinedOutput()
	return string(text), command.ProcessState.ExitCode()
}
