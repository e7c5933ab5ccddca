package agent

import (
	"bytes"
	"crypto/rand"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/test/kit/await"
)

// TestBytes sends many bytes in both directions at once.
func TestBytes(t *testing.T) {
	t.Parallel()
	e := startEngine(t, func(conn *net.UnixConn) { io.Copy(conn, conn) })
	k := install(t)
	client := dial(t, k.server, startAgent(t, Options{Keys: k.agent, Socket: e.socket}).address)
	sent := make([]byte, 3<<20)
	rand.Read(sent)
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() {
		client.Write(sent)
		client.CloseWrite()
	})
	got, err := io.ReadAll(client)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back, or others: %v", len(got), len(sent), err)
	}
}

// TestHalfClose ends one direction, and then still uses the other.
func TestHalfClose(t *testing.T) {
	t.Parallel()
	e := startEngine(t, nil)
	k := install(t)
	a := startAgent(t, Options{Keys: k.agent, Socket: e.socket})

	client := dial(t, k.server, a.address)
	engine := e.accept(t)
	write(t, client, "input")
	client.CloseWrite()
	wantRead(t, engine, "input")
	wantEOF(t, engine)
	write(t, engine, "output")
	wantRead(t, client, "output")
	engine.Close()
	wantEOF(t, client)

	client = dial(t, k.server, a.address)
	engine = e.accept(t)
	write(t, engine, "output")
	engine.CloseWrite()
	wantRead(t, client, "output")
	wantEOF(t, client)
	write(t, client, "input")
	wantRead(t, engine, "input")
	client.Close()
	wantEOF(t, engine)
}

// TestEndOfClient checks that a client's end ends a connection on which the engine sends nothing: when the client
// closes or loses the connection, also after it has ended its own direction.
func TestEndOfClient(t *testing.T) {
	t.Parallel()
	e := startEngine(t, nil)
	k := install(t)
	a := startAgent(t, Options{Keys: k.agent, Socket: e.socket})
	for _, name := range []string{"closed", "half-closed, then closed", "reset", "half-closed, then reset"} {
		client := dial(t, k.server, a.address)
		engine := e.accept(t)
		tcp := client.NetConn().(*net.TCPConn)
		switch name {
		case "closed":
			client.Close()
		case "half-closed, then closed":
			client.CloseWrite()
			wantEOF(t, engine)
			client.Close()
		case "reset":
			tcp.SetLinger(0)
			tcp.Close()
		case "half-closed, then reset":
			client.CloseWrite()
			wantEOF(t, engine)
			tcp.SetLinger(0)
			tcp.Close()
		}
		wantEOF(t, engine)
		// The engine cannot write any more: both directions have ended.
		for n := 0; ; n++ {
			if _, err := engine.Write(make([]byte, 64<<10)); err != nil {
				if netErr, ok := err.(net.Error); ok && netErr.Timeout() {
					t.Errorf("%s: the engine waits for ever", name)
				}
				break
			}
		}
	}
}

// TestEndOfEngine closes the engine's side while the client still sends, for example heartbeats. The client gets
// everything that the engine has sent, however late it reads.
func TestEndOfEngine(t *testing.T) {
	t.Parallel()
	e := startEngine(t, nil)
	k := install(t)
	a := startAgent(t, Options{Keys: k.agent, Socket: e.socket})
	said := make([]byte, 2<<20)
	rand.Read(said)
	for range 3 {
		client := dial(t, k.server, a.address)
		engine := e.accept(t)
		var saying sync.WaitGroup
		saying.Go(func() {
			engine.Write(said)
			engine.Close()
		})
		var got []byte
		for piece := make([]byte, 32<<10); ; {
			client.Write([]byte("heartbeat"))
			n, err := client.Read(piece)
			got = append(got, piece[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("after %d of %d bytes: %v", len(got), len(said), err)
			}
		}
		saying.Wait()
		if !bytes.Equal(got, said) {
			t.Fatalf("%d of %d bytes came, or others", len(got), len(said))
		}
		client.Close()
	}
}

// TestNoEngine starts an agent while nothing listens on the engine's socket.
func TestNoEngine(t *testing.T) {
	t.Parallel()
	k := install(t)
	a := startAgent(t, Options{Keys: k.agent, Socket: t.TempDir() + "/none.sock"})
	client := dial(t, k.server, a.address)
	if n, err := client.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes came", n)
	}
	a.inLog(t, `msg="cannot connect to the engine" err=.*no such file`)
}

// TestEngineAway asks for the engine again and again while it is away, as a server with nodes does every few seconds. The log
// says once that it is, and once that it is back.
func TestEngineAway(t *testing.T) {
	t.Parallel()
	k, e := install(t), sayer(t)
	socket := filepath.Join(filepath.Dir(e.socket), "later.sock")
	a := startAgent(t, Options{Keys: k.agent, Socket: socket})
	for range 5 {
		if got, _ := ask(k.server.Dial(t.Context(), a.address)); got != "" {
			t.Fatalf("without an engine: %q", got)
		}
	}
	if err := os.Symlink(e.socket, socket); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, err := ask(k.server.Dial(t.Context(), a.address)); !strings.Contains(got, secret) {
			t.Fatalf("with an engine: %q, %v", got, err)
		}
	}
	a.inLog(t, `level=INFO msg="the engine can be reached again"`)
	if n := strings.Count(a.log.String(), "cannot connect to the engine"); n != 1 {
		t.Errorf("the log says %d times that it is away:\n%s", n, a.log.String())
	}
	if n := strings.Count(a.log.String(), "can be reached again"); n != 1 {
		t.Errorf("the log says %d times that it is back:\n%s", n, a.log.String())
	}
}

// A fullListener has too many files open, except for some of its calls, and is then closed.
type fullListener struct {
	net.Listener
	results []error // nil: a connection
}

func (l *fullListener) Accept() (net.Conn, error) {
	if len(l.results) == 0 {
		return nil, net.ErrClosed
	}
	err := l.results[0]
	l.results = l.results[1:]
	if err != nil {
		return nil, err
	}
	conn, other := net.Pipe()
	other.Close()
	return conn, nil
}

// TestTooManyFiles has an agent that cannot accept connections for a while, twice. The log says so once each time.
func TestTooManyFiles(t *testing.T) {
	k := install(t)
	synctest.Test(t, func(t *testing.T) {
		var log await.Log
		s := &service{tls: k.agent.listening(func() bool { return false }), log: slog.New(slog.NewTextHandler(&log, nil)), refused: refusals{log: slog.New(slog.DiscardHandler)}}
		begun := time.Now()
		full := syscall.EMFILE
		s.accept(&fullListener{results: []error{full, full, full, nil, full, full}})
		s.serving.Wait()
		if n := strings.Count(log.String(), "cannot accept"); n != 2 || time.Since(begun) < 5*acceptPause {
			t.Errorf("the log says so %d times, after %s:\n%s", n, time.Since(begun), log.String())
		}
	})
}
