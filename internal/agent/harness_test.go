package agent

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"iglu.sh/builder/test/kit/await"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// timeout is how long a test waits for what must happen.
const timeout = 30 * time.Second

// An installation is the keys of both sides that one call of MakeKeys has made.
type installation struct {
	folder        string
	server, agent *Keys
}

func install(t *testing.T, hosts ...string) installation {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "keys")
	if err := MakeKeys(folder, hosts); err != nil {
		t.Fatal(err)
	}
	return installation{folder, readKeys(t, folder, "server"), readKeys(t, folder, "agent")}
}

func readKeys(t *testing.T, folder, side string) *Keys {
	t.Helper()
	k, err := ReadKeys(filepath.Join(folder, side))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// An engine is a unix socket whose connections the test serves.
type engine struct {
	socket string
	conns  chan *net.UnixConn // the connections, if the test gave no function for them
}

func startEngine(t *testing.T, work func(conn *net.UnixConn)) *engine {
	t.Helper()
	folder, err := os.MkdirTemp("", "agent-") // short, for the sake of the socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	e := &engine{socket: filepath.Join(folder, "engine.sock"), conns: make(chan *net.UnixConn, 10)}
	listener, err := net.Listen("unix", e.socket)
	if err != nil {
		t.Fatal(err)
	}
	var working sync.WaitGroup
	working.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if work == nil {
				e.conns <- conn.(*net.UnixConn)
				continue
			}
			working.Go(func() {
				defer conn.Close()
				work(conn.(*net.UnixConn))
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		working.Wait()
	})
	return e
}

// accept returns the next connection that is made to the engine.
func (e *engine) accept(t *testing.T) *net.UnixConn {
	t.Helper()
	conn := await.Receive(t, e.conns, "somebody connects to the engine")
	conn.SetDeadline(time.Now().Add(timeout))
	t.Cleanup(func() { conn.Close() })
	return conn
}

// A running is a running agent.
type running struct {
	address string
	log     *await.Log
	stop    context.CancelFunc // asks it to stop
	force   context.CancelFunc // asks once more
	ended   chan struct{}
}

// startAgent starts an agent, which is stopped when the test ends.
func startAgent(t *testing.T, o Options) *running {
	t.Helper()
	if o.Running == nil {
		o.Running = func(context.Context) (bool, error) { return false, nil }
	}
	if o.Grace == 0 {
		o.Grace = time.Hour
	}
	o.Listen = "127.0.0.1:0"
	a := &running{log: new(await.Log), ended: make(chan struct{})}
	var ctx, force context.Context
	ctx, a.stop = context.WithCancel(context.Background())
	force, a.force = context.WithCancel(context.Background())
	go func() {
		defer close(a.ended)
		if err := Serve(ctx, force, o, slog.New(slog.NewTextHandler(a.log, nil))); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		a.force()
		a.stop()
		<-a.ended
	})
	a.address = a.inLog(t, `msg=listening addr=(\S+)`)
	return a
}

// awaitEnd waits until the agent has ended.
func (a *running) awaitEnd(t *testing.T) {
	t.Helper()
	await.Receive(t, a.ended, "the agent ends")
}

// hasEnded reports whether it has.
func (a *running) hasEnded() bool {
	select {
	case <-a.ended:
		return true
	default:
		return false
	}
}

// dial connects to an agent.
func dial(t *testing.T, k *Keys, address string) *tls.Conn {
	t.Helper()
	conn, err := k.Dial(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(timeout))
	t.Cleanup(func() { conn.Close() })
	return conn
}

func write(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
}

// wantRead reads as many bytes as want has, and compares them.
func wantRead(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(r, got)
	if string(got[:n]) != want {
		t.Fatalf("read %q (%v), want %q", got[:n], err, want)
	}
}

// wantEOF checks that the connection has ended without more bytes.
func wantEOF(t *testing.T, r io.Reader) {
	t.Helper()
	if n, err := r.Read(make([]byte, 10)); n > 0 || err != io.EOF {
		t.Fatalf("read %d bytes, %v, want the end", n, err)
	}
}

// inLog waits for a match in an agent's log, and returns its last group.
func (a *running) inLog(t *testing.T, pattern string) string {
	t.Helper()
	var match []string
	if err := a.log.Await(timeout, func(text string) bool {
		match = regexp.MustCompile(pattern).FindStringSubmatch(text)
		return match != nil
	}); err != nil {
		t.Fatalf("%s: %v", pattern, err)
	}
	return match[len(match)-1]
}
