//go:build integration

package agent

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestJob runs whole jobs through an agent. Every line arrives, exit codes are right, and nothing is left.
func TestJob(t *testing.T) { fixture.OnEngines(t, job) }

func job(t *testing.T, e *fixture.Engine) {
	a := fixture.StartAgent(t, e, "127.0.0.1")
	s := a.Server(t, func(*server.Settings) {})
	got := fixture.Do(t, s, fixture.Command("nix --version"))
	fixture.WantExit(t, got, 0)

	const last = 20_000
	got = fixture.Do(t, s, fixture.Command(fmt.Sprintf("sh -c 'seq %d; exit 7'", last)))
	fixture.WantExit(t, got, 7)
	var want []string
	for n := range last {
		want = append(want, strconv.Itoa(n+1))
	}
	if printed(got) != strings.Join(want, "\n") {
		t.Errorf("%d lines arrived, or wrong ones", len(got.Lines))
	}
	fixture.WantNoContainers(t, s)
}

// TestStop asks an agent to stop while a job runs. The agent stops only after the job's container is removed.
func TestStop(t *testing.T) { fixture.OnEngines(t, stop) }

func stop(t *testing.T, e *fixture.Engine) {
	a := fixture.StartAgent(t, e, "127.0.0.1")
	s := a.Server(t, func(*server.Settings) {})
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command("sh -c 'echo begun; while [ ! -e /tmp/go-on ]; do sleep 0.1; done; sleep 5; echo done; exit 3'")))
	c.WaitFor(`"begun"`)
	a.Stop()
	if err := a.Log.Await(30*time.Second, func(text string) bool {
		return strings.Contains(text, `msg="asked to stop: waits for the engine's jobs"`) && strings.Contains(text, `why="jobs run"`)
	}); err != nil {
		t.Fatal(err)
	}
	if status, text := s.Get(t, "GET", "/readyz"); status != 200 && !strings.Contains(text, "busy") { // readyz calls the engine
		t.Errorf("readyz is %d, %s", status, text)
	}
	e.Docker(t, "exec", s.JobContainer(t), "touch", "/tmp/go-on")
	got := c.Finish()
	fixture.WantLast(t, got, 3)
	fixture.WantLine(t, got, "done")
	fixture.WantNoContainers(t, s)
	if err := a.Wait(); err != nil {
		t.Errorf("%v\n%s", err, a.Log.String())
	}
	if strings.Contains(a.Log.String(), "in use") {
		t.Errorf("the agent stops while it is in use:\n%s", a.Log.String())
	}
}

// TestBehindProxy sets an HTTP proxy in the environment, which must not be used for agents. The builder calls
// the agent at an address that is not in its certificate.
func TestBehindProxy(t *testing.T) {
	ip := fixture.BridgeAddress(t)
	a := fixture.StartAgent(t, fixture.DockerEngine(), ip)
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	s := fixture.StartProcessAs(t, "test-proxy-"+strings.ToLower(rand.Text()[:10]), a.At(ip),
		"--agent-keys", a.Keys+"/server", "--job-image", fixture.Env.Image)
	s.Host = ""
	s.Image = fixture.Env.Image
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("nix --version")), 0)
}

// TestDockersOwnClient uses the docker command through an agent. A container gets the end of its standard
// input, and its later output arrives.
func TestDockersOwnClient(t *testing.T) {
	t.Parallel()
	a := fixture.StartAgent(t, fixture.DockerEngine(), "127.0.0.1")
	run := dockerThrough(a, "server", "run", "--rm", "--interactive", "--network", "none", fixture.Env.Image, "sh", "-c", "wc -l; echo after")
	run.Stdin = strings.NewReader("one\ntwo\n")
	if output, err := run.CombinedOutput(); err != nil || string(output) != "2\nafter\n" {
		t.Errorf("got %q, %v", output, err)
	}
	// A stolen key of another node is an agent's key. Even without a check of the server's certificate, the
	// agent refuses it.
	other := dockerThrough(a, "agent", "version")
	for i, arg := range other.Args {
		if arg == a.Keys+"/agent/ca.pem" {
			other.Args[i] = a.Keys + "/server/ca.pem"
		}
	}
	if output, err := other.CombinedOutput(); err == nil || !bytes.Contains(output, []byte("tls: ")) {
		t.Errorf("with an agent's key: %s, %v", output, err)
	}
}

// TestJobsDoNotReachTheEngine runs a job that calls the agent at the machine's address on the jobs' network and
// tries to use the engine. With a bare proxy to the socket instead of the agent, that works.
func TestJobsDoNotReachTheEngine(t *testing.T) { fixture.OnEngines(t, jobsDoNotReachTheEngine) }

func jobsDoNotReachTheEngine(t *testing.T, e *fixture.Engine) {
	a := fixture.StartAgent(t, e, "0.0.0.0")
	s := fixture.Attacker(t, e, func(*server.Settings) {})
	attack := func(port string) fixture.Result {
		return fixture.Do(t, s, fixture.Command("attack agent "+port))
	}
	got := attack(a.Port)
	fixture.WantExit(t, got, 1)
	for _, way := range []string{"plain HTTP", "TLS without a key", "TLS with a key of its own"} {
		fixture.WantLine(t, got, "agent: "+way+": refused by the agent")
	}
	got = attack(bareProxy(t, e.Socket()))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "agent: succeeded")
}

// bareProxy starts a proxy to a socket without authentication, and returns its port.
func bareProxy(t *testing.T, socket string) (port string) {
	t.Helper()
	listener, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			engine, err := net.Dial("unix", socket)
			if err != nil {
				client.Close()
				continue
			}
			go func() {
				defer engine.Close()
				io.Copy(engine, client)
			}()
			go func() {
				defer client.Close()
				io.Copy(client, engine)
			}()
		}
	}()
	_, port, _ = net.SplitHostPort(listener.Addr().String())
	return port
}
