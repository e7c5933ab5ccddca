//go:build integration && long

package protocol

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/await"
	"iglu.sh/builder/test/kit/fixture"
)

// Each test in this file is about an attack that once succeeded.

// TestClientLeavesEarly disconnects during each of the first calls to the engine. The engine continues a cancelled
// call, so that a container was made that nobody removed.
func TestClientLeavesEarly(t *testing.T) {
	fixture.OnEngines(t, func(t *testing.T, e *fixture.Engine) {
		var atCall atomic.Pointer[func()]
		proxy := fixture.ProxyTo(t, e.Socket())
		engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if attack := atCall.Load(); attack != nil {
				(*attack)()
			}
			proxy.ServeHTTP(w, r)
		}))
		t.Cleanup(engine.Close)
		s := e.ServerVia(t, "tcp://"+engine.Listener.Addr().String(), func(*server.Settings) {})
		fixture.WantFree(t, s) // what is made once for all jobs is there now
		for n := range int64(6) {
			c := fixture.Connect(t, s)
			var calls atomic.Int64
			left := make(chan struct{})
			leave := func() {
				if calls.Add(1) == n+1 {
					c.Conn.NetConn().Close()
					close(left)
				}
			}
			atCall.Store(&leave)
			c.Send(fixture.JSONOf(t, fixture.Command("nix --version")))
			await.Receive(t, left, fmt.Sprintf("the engine gets %d calls", n+1))
			fixture.WantFree(t, s)
		}
		fixture.WantNoContainers(t, s)
	})
}

// TestClientTalksOn sends a message for each one that it gets. The answers to them hid the last message, or reset
// the connection before it arrived.
func TestClientTalksOn(t *testing.T) {
	t.Parallel()
	s := fixture.OwnServer(t)
	for range 5 {
		c := fixture.Connect(t, s)
		c.Send(fixture.JSONOf(t, fixture.Command("sh -c 'sleep 0.3; exit 42'")))
		var last string
		message, code := c.Read()
		for ; code == 0; message, code = c.Read() {
			last = message
			c.Conn.WriteMessage(websocket.TextMessage, []byte("{}")) // fails at the end
		}
		if !fixture.IsExit(last, 42) || code != 1011 {
			t.Errorf("the last message is %s, the close code %d", last, code)
		}
	}
}

// TestClientLeavesUnread closes the connection without reading its log. The pending write of the log kept the slot
// busy.
func TestClientLeavesUnread(t *testing.T) {
	t.Parallel()
	s := fixture.OwnServer(t)
	for name, leave := range map[string]func(*websocket.Conn) error{
		"close frame": func(c *websocket.Conn) error {
			return c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(time.Second))
		},
		"half-closed": func(c *websocket.Conn) error { return c.NetConn().(*net.TCPConn).CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			c := fixture.Connect(t, s)
			c.Send(fixture.JSONOf(t, fixture.Command("sh -c 'yes 0123456789012345678901234567890123456789 | head -n 500000; sleep 1000'")))
			c.WaitFor("iglu: running")
			fixture.Pass(time.Second) // all buffers are full
			if err := leave(c.Conn); err != nil {
				t.Fatal(err)
			}
			fixture.WantFree(t, s)
		})
	}
}

// TestShutdownWithStalledClient stops a server whose client does not read.
func TestShutdownWithStalledClient(t *testing.T) {
	s := fixture.ServerWith(t, func(*server.Settings) {})
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command("sh -c 'yes 0123456789012345678901234567890123456789 | head -n 500000; sleep 1000'")))
	c.WaitFor("iglu: running")
	fixture.Pass(time.Second) // all buffers are full
	begun := time.Now()
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 18*time.Second {
		t.Errorf("the server took %s to stop", took)
	}
	s.Ended <- nil // for the clean-up, which stops it again
}

// TestEngineStalls uses an engine that does not answer a call, either until the client leaves or for ever. The
// builder waits for the creation of a container, because it must remove the container.
func TestEngineStalls(t *testing.T) {
	fixture.OnEngines(t, func(t *testing.T, e *fixture.Engine) {
		for _, call := range []string{"/create", "/attach", "/wait", "/start"} {
			t.Run(call, func(t *testing.T) { engineStalls(t, e, call) })
		}
	})
}

func engineStalls(t *testing.T, e *fixture.Engine, call string) {
	var stalls atomic.Bool
	stalls.Store(true)
	reached, ended := make(chan struct{}), make(chan struct{})
	var once sync.Once
	proxy := fixture.ProxyTo(t, e.Socket())
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if stalls.Load() && strings.HasSuffix(r.URL.Path, call) {
			once.Do(func() { close(reached) })
			if call != "/create" {
				<-ended
				return
			}
			fixture.Pass(2 * time.Second)
		}
		proxy.ServeHTTP(w, r)
	}))
	defer engine.Close()
	defer close(ended)
	s := e.ServerVia(t, "tcp://"+engine.Listener.Addr().String(), func(*server.Settings) {})
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command("nix --version")))
	c.Next()
	<-reached
	c.Conn.NetConn().Close()
	stalls.Store(false)
	fixture.WantFree(t, s)
	fixture.WantNoContainers(t, s)
	if err := s.Stop(); err != nil { // before its engine is stopped
		t.Error(err)
	}
	s.Ended <- nil // for the clean-up
}

// TestPingFlood sends pings without reading. The answers timed out because of the log before them.
func TestPingFlood(t *testing.T) {
	c := fixture.Connect(t, fixture.Env.Server)
	c.Send(fixture.JSONOf(t, fixture.Command("seq 300000")))
	c.WaitFor("iglu: running")
	for range 3000 { // the kernel buffers them while the server is busy
		if err := c.Conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(fixture.MessageTimeout)); err != nil {
			t.Fatal(err)
		}
	}
	if _, last := c.CountLines(300_000); last != `{"stdout":"300000","jobStatus":"running"}` {
		t.Errorf("the last line is %s", last)
	}
	if got := c.Finish(); len(got.Messages) != 1 || got.Messages[0] != fixture.Succeeded {
		t.Errorf("got %v", got.Messages)
	}
}

// TestTooLongForAnEnvironment sends texts that are too long for an environment variable.
func TestTooLongForAnEnvironment(t *testing.T) {
	long := strings.Repeat("x", 130_000)
	withOptions := func(o schemas.BuildOptions) fixture.Job {
		o.Command = "nix"
		return fixture.Job{Git: schemas.Git{NoClone: true}, BuildOptions: o}
	}
	tests := map[string]struct {
		fixture.Job
		most int // in bytes
	}{
		"buildOptions.command":           {fixture.Command("nix " + long), 122880},
		"buildOptions.extraArgs":         {withOptions(schemas.BuildOptions{ExtraArgs: long}), 122880},
		"buildOptions.substituters":      {withOptions(schemas.BuildOptions{Substituters: []string{long[:40_000], long[:40_000]}}), 61440},
		"buildOptions.trustedPublicKeys": {withOptions(schemas.BuildOptions{TrustedPublicKeys: []string{long}}), 61440},
		"git.gitKey":                     {fixture.Job{Git: schemas.Git{NoClone: true, GitKey: long}, BuildOptions: schemas.BuildOptions{Command: "nix"}}, 16384},
	}
	for path, test := range tests {
		want := fmt.Sprintf(`{"error":"JSON schema is not valid.","msg":"%s: is too long: at most %d bytes are allowed","jobStatus":"failed"}`, path, test.most)
		if got := fixture.Do(t, fixture.Env.Server, test.Job); len(got.Messages) != 1 || got.Messages[0] != want {
			t.Errorf("%s: got %.300v", path, got.Messages)
		}
	}
}

// TestHalfARequest stops a server while a client is still sending its first request.
func TestHalfARequest(t *testing.T) {
	s := fixture.StartProcess(t, "--job-image", fixture.Env.Image)
	conn, err := net.Dial("tcp", s.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /api/v1/healthcheck HTTP/1.1\r\n")
	if status, _ := s.Get(t, "GET", "/livez"); status != http.StatusOK { // the server has then accepted the earlier connection too
		t.Errorf("HTTP %d", status)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	s.Ended <- nil // for the clean-up
}

// TestInterruptWhileReadingInput presses Ctrl-C while the client reads the job from standard input.
func TestInterruptWhileReadingInput(t *testing.T) {
	client := exec.Command(fixture.Env.Program, "build", "-")
	stdin, err := client.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); client.Wait() }()
	t.Cleanup(func() { client.Process.Kill() })
	// More than the buffer of a pipe, so that the write ends only if the client reads.
	if _, err := stdin.Write(bytes.Repeat([]byte(" "), 128<<10)); err != nil {
		t.Fatal(err)
	}
	client.Process.Signal(syscall.SIGINT)
	await.Receive(t, ended, "the client ends")
}

// TestSameInstance runs two builders of one instance that make the network at the same time.
func TestSameInstance(t *testing.T) { fixture.OnEngines(t, sameInstance) }

func sameInstance(t *testing.T, e *fixture.Engine) {
	alone := []string{"nix"} // without sh, a server has none of fixture.OtherJobs, which the other one would not know
	a := e.Server(t, func(s *server.Settings) { s.AllowedCommands = alone })
	b := e.Server(t, func(s *server.Settings) {
		s.Instance, s.StateDir, s.AllowedCommands = a.Instance, t.TempDir(), alone
	})
	both := func() []fixture.Result {
		clients := []*fixture.Client{fixture.Connect(t, a), fixture.Connect(t, b)}
		for _, c := range clients {
			c.Send(fixture.JSONOf(t, fixture.Command("nix --version")))
		}
		return []fixture.Result{clients[0].Finish(), clients[1].Finish()}
	}
	both() // one may find a duplicate network
	for _, r := range both() {
		fixture.WantExit(t, r, 0)
	}
	fixture.WantNoContainers(t, a) // of either: the first that stops looks for those of both
}
