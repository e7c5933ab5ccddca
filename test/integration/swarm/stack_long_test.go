//go:build integration && long

package swarm

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"iglu.sh/builder/test/kit/fixture"
	"iglu.sh/builder/test/kit/lab"
)

// convergeTimeout limits the wait for actions of Swarm, such as the start of a service's containers on a busy machine.
const convergeTimeout = 3 * time.Minute

// A stack is the stack of examples/swarm on the lab's nodes. Its server is on the first node, until a test moves it.
type stack struct {
	*fixture.Server // the latest server that follow has found
	t               *testing.T
	lab             *lab.Lab
	name            string
	seen            map[string]bool // containers of servers that were found
}

// onFirst is the constraint that places the server on the first node.
const onFirst = "node.hostname == n1"

type object = map[string]any

// deploy deploys the stack with more settings of the server, and waits until the server has all nodes.
func deploy(t *testing.T, settings map[string]string) *stack {
	t.Helper()
	s := newStack(t)
	s.deploy("stack.yml", object{
		"server": object{
			"image": env.image, "environment": s.settings(settings),
			"ports":  []object{{"target": 3000, "published": 3000, "mode": "host"}},
			"deploy": object{"placement": object{"constraints": []string{onFirst}}},
		},
		"agent": object{"image": env.image},
	})
	s.follow()
	return s
}

// newStack returns a stack that is not deployed yet. It is removed when the test ends. The test fails if a container of
// a job is left on any node.
func newStack(t *testing.T) *stack {
	t.Helper()
	s := &stack{t: t, lab: theLab(t), name: "iglu-" + strings.ToLower(rand.Text()[:8]), seen: make(map[string]bool)}
	t.Cleanup(s.remove)
	return s
}

// deploy deploys a file of examples/swarm with the changes that the lab needs: its nodes cannot reach a registry, and
// have no IPVS, which Swarm needs to publish a port on every node.
func (s *stack) deploy(file string, services object) {
	s.t.Helper()
	override := filepath.Join(s.t.TempDir(), "lab.yml")
	text := fixture.JSONOf(s.t, object{"version": "3.8", "services": services})
	if err := os.WriteFile(override, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.on(0, "stack", "deploy", "--resolve-image", "never", "--compose-file", fixture.RepoPath("examples/swarm/"+file),
		"--compose-file", override, s.name)
}

// settings returns the tests' settings of a server, with more added. Lost jobs are not run again, because that would
// hide the message about a lost node.
func (s *stack) settings(more map[string]string) map[string]string {
	settings := map[string]string{"IGLU_INSTANCE": s.name, "IGLU_JOB_IMAGE": fixture.Env.Image, "IGLU_ALLOWED_COMMANDS": "nix,sh,attack",
		"IGLU_RETRY_LOST": "no"}
	maps.Copy(settings, more)
	return settings
}

// on runs the docker command on a node, and fails the test if the command fails.
func (s *stack) on(node int, args ...string) string {
	s.t.Helper()
	output, err := s.lab.Nodes[node].Docker(args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return output
}

// containers returns the IDs of a service's containers on a node that are running or starting.
func (s *stack) containers(n *lab.Node, service string) []string {
	output, _ := n.Docker("ps", "--quiet", "--no-trunc", "--filter", "label=com.docker.swarm.service.name="+s.name+"_"+service)
	return strings.Fields(output)
}

// follow waits for a new server that has all nodes, and makes it the stack's server.
func (s *stack) follow() {
	s.t.Helper()
	s.await(func() bool {
		for _, n := range s.lab.Nodes {
			for _, id := range s.containers(n, "server") {
				if !s.seen[id] {
					s.Server = s.serverIn(n, id)
					s.seen[id] = true
					return true
				}
			}
		}
		return false
	}, "there is no new server")
	for _, n := range s.lab.Nodes {
		s.awaitMet(n, 1)
	}
}

// serverIn returns the server that runs in a container on a node.
func (s *stack) serverIn(n *lab.Node, id string) *fixture.Server {
	s.t.Helper()
	server := &fixture.Server{Instance: s.name, Host: n.Host(), Image: fixture.Env.Image, Token: fixture.GoodToken, Address: s.forward(n)}
	logs := exec.Command("docker", "--host", n.Host(), "logs", "--follow", id)
	logs.Stdout, logs.Stderr = &server.Log, &server.Log
	if err := logs.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		logs.Process.Kill()
		logs.Wait()
		if err := fixture.CheckSecrets(server.Log.String()); err != nil {
			s.t.Error(err)
		}
		if s.t.Failed() {
			s.t.Logf("the log of the server on %s:\n%s", n.Name, server.Log.String())
		}
	})
	return server
}

// met returns how many times the server has found a node.
func (s *stack) met(n *lab.Node) int { return count(s.Log.String(), "node connected", n) }

// awaitMet waits until the server has found a node a number of times. awaitLost does the same for losing it.
func (s *stack) awaitMet(n *lab.Node, times int) {
	s.t.Helper()
	s.awaitCount("node connected", n, times)
}
func (s *stack) awaitLost(n *lab.Node, times int) {
	s.t.Helper()
	s.awaitCount("node lost", n, times)
}

func (s *stack) awaitCount(message string, n *lab.Node, times int) {
	s.t.Helper()
	if err := s.Log.Await(convergeTimeout, func(text string) bool { return count(text, message, n) >= times }); err != nil {
		s.t.Fatalf("node %s: the server has not logged %d times %q: %v\n%s", n.Name, times, message, err, s.state())
	}
}

// count returns how many lines of a log have a message about a node.
func count(log, message string, n *lab.Node) int {
	return len(regexp.MustCompile(`msg="`+message+`" .*node=`+n.Name+`\b`).FindAllString(log, -1))
}

// await waits until a condition on the swarm holds.
func (s *stack) await(holds func() bool, what string) {
	s.t.Helper()
	if err := s.lab.Await(convergeTimeout, holds); err != nil {
		s.t.Fatalf("%s: %v\n%s", what, err, s.state())
	}
}

// state returns Swarm's description of the stack.
func (s *stack) state() string {
	output, err := s.lab.Nodes[0].Docker("stack", "ps", "--no-trunc", "--format", "{{.Name}} {{.Node}} {{.DesiredState}} {{.CurrentState}} {{.Error}}", s.name)
	return fmt.Sprint(output, "\n", err)
}

// remove removes the stack, and what its server keeps for its next start. It fails the test if a container of a job is
// left, and ends jobs that a failed test has left.
func (s *stack) remove() {
	if s.t.Failed() {
		s.t.Log(s.state())
	}
	for _, n := range s.lab.Nodes {
		s.wantNoJobs(n)
	}
	_, err := s.lab.Nodes[0].Docker("stack", "rm", s.name) // fails if a task that is ending still uses the network
	for _, n := range s.lab.Nodes {
		for _, id := range s.jobsOn(n) {
			n.Docker("rm", "--force", id)
		}
		if err := fixture.AwaitEngine(n.Host(), convergeTimeout, func() bool {
			output, err := n.Docker("ps", "--all", "--quiet", "--filter", "label=com.docker.stack.namespace="+s.name)
			return err == nil && output == ""
		}); err != nil {
			s.t.Errorf("%s still has containers of the stack: %v", n.Name, err)
		}
		fixture.RemoveAll(n.Host(), s.name)
		n.Docker("volume", "rm", s.name+"_state")
	}
	s.await(func() bool {
		if err != nil {
			_, err = s.lab.Nodes[0].Docker("stack", "rm", s.name)
		}
		output, listed := s.lab.Nodes[0].Docker("network", "ls", "--quiet", "--filter", "label=com.docker.stack.namespace="+s.name)
		return listed == nil && output == ""
	}, "the stack's network is not removed")
}

// wantNoJobs waits until a node has no containers of jobs: at most until the lifeline has timed out and the server has
// cleaned up.
func (s *stack) wantNoJobs(n *lab.Node) {
	s.t.Helper()
	if s.t.Failed() {
		return
	}
	if err := fixture.AwaitEngine(n.Host(), 2*time.Minute, func() bool { return len(s.jobsOn(n)) == 0 }); err != nil {
		s.t.Errorf("%s has containers of jobs: %q, %v", n.Name, s.jobsOn(n), err)
	}
}

// jobsOn returns the IDs of the containers of jobs on a node.
func (s *stack) jobsOn(n *lab.Node) []string {
	found, err := fixture.Listed(n.Host(), "container", s.name)
	if err != nil {
		s.t.Errorf("%s: %v", n.Name, err)
	}
	return found
}

// forward returns a loopback address that is forwarded to the server on a node.
func (s *stack) forward(n *lab.Node) (address string) {
	s.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.serve(listener, func() (net.Conn, error) { return s.lab.Dial(context.Background(), net.JoinHostPort(n.IP, "3000")) })
	return listener.Addr().String()
}

// serve forwards connections to those that dial opens, until the test ends.
func (s *stack) serve(listener net.Listener, dial func() (net.Conn, error)) {
	var passing sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	passing.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			passing.Go(func() { pass(ctx, client, dial) })
		}
	})
	s.t.Cleanup(func() {
		listener.Close()
		cancel()
		passing.Wait()
	})
}

// pass forwards a connection until either side closes it or ctx ends.
func pass(ctx context.Context, client net.Conn, dial func() (net.Conn, error)) {
	defer client.Close()
	server, err := dial()
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	closed := make(chan struct{})
	context.AfterFunc(ctx, func() {
		client.Close()
		server.Close()
		close(closed)
	})
	var back sync.WaitGroup
	back.Go(func() {
		defer cancel()
		io.Copy(server, client)
	})
	io.Copy(client, server)
	cancel()
	back.Wait()
	<-closed
}
