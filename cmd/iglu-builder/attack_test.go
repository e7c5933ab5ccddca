package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/schemas"
)

// Each test here is something that once went wrong when somebody tried to make it.

// TestClientLeavesEarly goes away while the engine is making the container: a call that
// is given up goes on in the engine, and its container had no owner.
func TestClientLeavesEarly(t *testing.T) {
	onEngines(t, func(t *testing.T, e *site) {
		s := e.server(t, func(*settings) {})
		for n := range 20 {
			c := connect(t, s)
			c.send(jsonOf(t, command("nix --version")))
			c.next()
			time.Sleep(time.Duration(n) * 4 * time.Millisecond)
			c.conn.NetConn().Close()
			wantFree(t, s)
		}
		wantNoContainers(t, s)
	})
}

// TestClientTalksOn sends messages to the end: the answers to them hid the last message,
// or reset the connection on which it was.
func TestClientTalksOn(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	for range 5 {
		c := connect(t, s)
		c.send(jsonOf(t, command("sh -c 'sleep 0.3; exit 42'")))
		go func() {
			for c.conn.WriteMessage(websocket.TextMessage, []byte("{}")) == nil {
				time.Sleep(time.Millisecond)
			}
		}()
		got := c.finish()
		if last := got.messages[len(got.messages)-1]; last != exited(42) || got.closeCode != 1011 {
			t.Errorf("the last message is %s, the close code %d", last, got.closeCode)
		}
	}
}

// TestClientLeavesUnread says goodbye without having read its log: the write of the log
// to it kept the place.
func TestClientLeavesUnread(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	for name, leave := range map[string]func(*websocket.Conn) error{
		"close frame": func(c *websocket.Conn) error {
			return c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(time.Second))
		},
		"half-closed": func(c *websocket.Conn) error { return c.NetConn().(*net.TCPConn).CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, s)
			c.send(jsonOf(t, command("sh -c 'yes 0123456789012345678901234567890123456789 | head -n 500000; sleep 1000'")))
			c.waitFor("iglu: running")
			time.Sleep(time.Second) // all buffers are full
			if err := leave(c.conn); err != nil {
				t.Fatal(err)
			}
			wantFree(t, s)
		})
	}
}

// TestShutdownWithStalledClient stops a server whose client does not read.
func TestShutdownWithStalledClient(t *testing.T) {
	s := serverWith(t, func(*settings) {})
	c := connect(t, s)
	c.send(jsonOf(t, command("sh -c 'yes 0123456789012345678901234567890123456789 | head -n 500000; sleep 1000'")))
	c.waitFor("iglu: running")
	time.Sleep(time.Second)
	begun := time.Now()
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 18*time.Second {
		t.Errorf("the server took %s to stop", took)
	}
	s.ended <- nil // for the clean-up, which stops it again
}

// TestEngineStalls has the engine not answer a call, for as long as the job's client is there
// or for ever. The making of a container is waited for: somebody has to remove it.
func TestEngineStalls(t *testing.T) {
	onEngines(t, func(t *testing.T, e *site) {
		for _, call := range []string{"/create", "/attach", "/wait", "/start"} {
			t.Run(call, func(t *testing.T) { engineStalls(t, e, call) })
		}
	})
}

func engineStalls(t *testing.T, e *site, call string) {
	var stalls atomic.Bool
	stalls.Store(true)
	reached, ended := make(chan struct{}), make(chan struct{})
	var once sync.Once
	proxy := proxyTo(t, e.socket())
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if stalls.Load() && strings.HasSuffix(r.URL.Path, call) {
			once.Do(func() { close(reached) })
			if call != "/create" {
				<-ended
				return
			}
			time.Sleep(2 * time.Second)
		}
		proxy.ServeHTTP(w, r)
	}))
	defer engine.Close()
	defer close(ended)
	s := e.serverVia(t, "tcp://"+engine.Listener.Addr().String(), func(*settings) {})
	c := connect(t, s)
	c.send(jsonOf(t, command("nix --version")))
	c.next()
	<-reached
	c.conn.NetConn().Close()
	stalls.Store(false)
	wantFree(t, s)
	wantNoContainers(t, s)
	if err := s.stop(); err != nil { // before its engine goes
		t.Error(err)
	}
	s.ended <- nil // for the clean-up
}

// proxyTo passes everything on to the engine at a socket.
func proxyTo(t *testing.T, socket string) *httputil.ReverseProxy {
	// The proxy itself leaves a connection open that was attached to a container which
	// then was removed.
	var mu sync.Mutex
	var conns []net.Conn
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, conn := range conns {
			conn.Close()
		}
	})
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			conns = append(conns, conn)
		}
		return conn, err
	}}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "docker"})
	proxy.Transport = transport
	proxy.FlushInterval = -1
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	return proxy
}

// TestPingFlood pings while not reading: the answers timed out under the log.
func TestPingFlood(t *testing.T) {
	c := connect(t, world.server)
	c.send(jsonOf(t, command("seq 300000")))
	c.waitFor("iglu: running")
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if err := c.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(100*time.Millisecond)); err != nil {
			if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
				t.Fatal(err)
			}
			break // the server is too busy to take them, as it may be
		}
	}
	if _, last := c.countLines(300_000); last != `{"stdout":"300000","jobStatus":"running"}` {
		t.Errorf("the last line is %s", last)
	}
	if got := c.finish(); len(got.messages) != 1 || got.messages[0] != succeeded {
		t.Errorf("got %v", got.messages)
	}
}

// TestEmptyProgramVolume has somebody prune the volumes: an engine makes a missing one
// anew, with nothing in it.
func TestEmptyProgramVolume(t *testing.T) {
	onEngines(t, func(t *testing.T, e *site) {
		s := e.server(t, func(*settings) {})
		wantExit(t, do(t, s, command("nix --version")), 0)
		volume := s.onEngine("volume")[0]
		wantNoContainers(t, s)
		e.docker(t, "volume", "rm", volume)
		wantExit(t, do(t, s, command("nix --version")), 0)
		wantNoContainers(t, s)
		e.docker(t, "volume", "rm", volume)
		e.docker(t, "volume", "create", "--label", "sh.iglu.builder.instance="+s.instance, volume)
		if got := do(t, s, command("nix --version")); len(got.messages) != 2 {
			t.Errorf("got %v", got.messages)
		}
		wantExit(t, do(t, s, command("nix --version")), 0)
		wantNoContainers(t, s)
		for _, network := range s.onEngine("network") {
			e.docker(t, "network", "rm", network)
		}
		wantExit(t, do(t, s, command("nix --version")), 0)
	})
}

// TestSameInstance runs two builders of one name, which each make the network at once.
func TestSameInstance(t *testing.T) { onEngines(t, sameInstance) }

func sameInstance(t *testing.T, e *site) {
	a := e.server(t, func(*settings) {})
	b := e.server(t, func(s *settings) { s.instance, s.stateDir = a.instance, t.TempDir() })
	both := func() []result {
		clients := []*client{connect(t, a), connect(t, b)}
		for _, c := range clients {
			c.send(jsonOf(t, command("nix --version")))
		}
		return []result{clients[0].finish(), clients[1].finish()}
	}
	both() // in which one may find a network too many
	for _, r := range both() {
		wantExit(t, r, 0)
	}
	wantNoContainers(t, a) // of either: the first that stops looks for those of both
}

// TestOddImage runs jobs in an image with variables that get in the way of ours, and
// without the folder for temporary files.
func TestOddImage(t *testing.T) { onEngines(t, oddImage) }

func oddImage(t *testing.T, e *site) {
	image := "odd-test:" + strings.ToLower(world.server.instance)
	e.changeImage(t, world.image, image, "ENV GIT_ASKPASS=/bin/false GIT_SSH_COMMAND=/bin/false GIT_ALLOW_PROTOCOL=ext "+
		"GIT_TERMINAL_PROMPT=1 IGLU_BRANCH=no-such-branch IGLU_EXTRA_ARGS=--no-such-flag TMPDIR=/no/such/folder",
		`ENTRYPOINT ["/bin/false"]`, "WORKDIR /nowhere", "USER nobody")
	s := e.server(t, func(s *settings) { s.jobImage = image })
	g := &world.git
	got := do(t, s, g.withKey(build(g.private+"/hello", "nix build -L"), gitPassword))
	wantExit(t, got, 0)
	wantLine(t, got, hello)
	got = do(t, s, g.withKey(build(g.ssh+"/hello", "nix build -L"), g.key))
	wantExit(t, got, 0)
}

// TestKeyForOneHost has a job with a key for ssh go to another host with it.
func TestKeyForOneHost(t *testing.T) {
	g := &world.git
	host, _, err := net.SplitHostPort(strings.TrimPrefix(strings.TrimSuffix(g.ssh, g.root), "ssh://"))
	if err != nil {
		t.Fatal(err)
	}
	// The same server, by another name.
	other := strings.Replace(g.ssh, "ssh://"+host, "ssh://root@[::ffff:"+host+"]", 1)
	j := g.withKey(build(g.ssh+"/hello", "git ls-remote "+other+"/hello"), g.key)
	s := serverWith(t, func(s *settings) { s.allowedCommands = []string{"git"} })
	got := do(t, s, j)
	wantExit(t, got, 128)
	wantLine(t, got, "Permission denied")
}

// TestTooLongForAnEnvironment sends texts that no variable holds.
func TestTooLongForAnEnvironment(t *testing.T) {
	long := strings.Repeat("x", 130_000)
	tests := map[string]job{
		"buildOptions.command":           command("nix " + long),
		"buildOptions.extraArgs":         {Git: schemas.Git{NoClone: true}, BuildOptions: schemas.BuildOptions{Command: "nix", ExtraArgs: long}},
		"buildOptions.substituters":      {Git: schemas.Git{NoClone: true}, BuildOptions: schemas.BuildOptions{Command: "nix", Substituters: []string{long[:40_000], long[:40_000]}}},
		"buildOptions.trustedPublicKeys": {Git: schemas.Git{NoClone: true}, BuildOptions: schemas.BuildOptions{Command: "nix", TrustedPublicKeys: []string{long}}},
		"git.gitKey":                     {Git: schemas.Git{NoClone: true, GitKey: long}, BuildOptions: schemas.BuildOptions{Command: "nix"}},
	}
	for path, j := range tests {
		want := fmt.Sprintf(`{"error":"JSON schema is not valid.","msg":"%s: is too long","jobStatus":"failed"}`, path)
		if got := do(t, world.server, j); len(got.messages) != 1 || got.messages[0] != want {
			t.Errorf("%s: got %.300v", path, got.messages)
		}
	}
}

// TestHalfARequest stops a server while a client is still sending its first request.
func TestHalfARequest(t *testing.T) {
	s := startProcess(t, "--job-image", world.image)
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /api/v1/healthcheck HTTP/1.1\r\n")
	time.Sleep(100 * time.Millisecond)
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	s.ended <- nil // for the clean-up
}

// TestInterruptWhileReadingInput presses Ctrl-C before there is a job.
func TestInterruptWhileReadingInput(t *testing.T) {
	client := exec.Command(world.program, "build", "-")
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
	// Again and again: before it has come to listen, a first signal may be lost.
	if err := poll(10*time.Second, func() bool {
		client.Process.Signal(syscall.SIGINT)
		select {
		case <-ended:
			return true
		case <-time.After(200 * time.Millisecond):
			return false
		}
	}); err != nil {
		client.Process.Kill()
		t.Error("the client does not end")
	}
}
