package wsapi

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/memnet"
	"iglu.sh/builder/wsapi/connlimit"
)

// fewConns are enough for tests of what happens when there are too many.
const fewConns = 16

// open opens a connection, sends something, and reads nothing. The server may write a limited number of bytes until the
// client reads.
func (f *fixture) open(send string, buffer int) net.Conn {
	f.t.Helper()
	conn, err := dialMem(f.t.Context(), f.limiter.Listener.(*memnet.Listener), buffer)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, send); err != nil {
		f.t.Fatal(err)
	}
	return conn
}

// isClosed reports whether the server has closed a connection.
func isClosed(conn net.Conn) bool {
	pipe := conn.(*memConn).in
	pipe.mu.Lock()
	defer pipe.mu.Unlock()
	return pipe.ended
}

// TestFlood opens as many connections as may be open, in each way in which a client can keep the
// server waiting, while a job runs. The job continues, and other clients are served as soon as
// those connections have been idle for long enough.
func TestFlood(t *testing.T) {
	const page = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
	for name, test := range map[string]struct {
		send   string
		buffer int
	}{
		"mute":                 {"", socketBuffer},
		"half a request":       {page[:20], socketBuffer},
		"a request and no end": {page, socketBuffer},
		"answers not read":     {strings.Repeat(page, 100), 50},
		"form that never ends": {"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n" +
			"Content-Length: 100\r\n\r\ntoken=", socketBuffer},
		"WebSockets refused":         {webSocketRequest, socketBuffer},
		"refusals that nobody reads": {webSocketRequest, 0},
	} {
		bubble(t, name, func(t *testing.T) {
			b := newHeldBuilder()
			f := serveLimited(t, fewConns, b)
			c := f.dial()
			c.send(job())
			ended := c.inBackground()
			<-b.begun
			synctest.Wait()
			if n := f.limiter.Len(); n != 0 {
				t.Errorf("%d connections count beside the job's", n)
			}
			var conns []net.Conn
			for range fewConns {
				conns = append(conns, f.open(test.send, test.buffer))
				elapse(time.Microsecond) // so that one is the first
			}
			synctest.Wait()
			begun := time.Now()
			for range 3 { // there are enough of them
				if status, _ := f.ask("GET", "/api/v1/healthcheck"); status != 200 {
					t.Errorf("the health check is %d", status)
				}
			}
			if took := time.Since(begun); took > connlimit.IdleTimeout {
				t.Errorf("it took %s", took)
			}
			if n := f.limiter.Len(); n > fewConns {
				t.Errorf("%d connections count", n)
			}
			// The server itself closes those of WebSockets.
			if !strings.Contains(name, "refus") && (!isClosed(conns[0]) || isClosed(conns[fewConns-1])) {
				t.Error("another connection than the one that was idle for the longest time was closed")
			}
			b.exit <- 0
			(<-ended).check(t, websocket.CloseNormalClosure, accepted, succeeded)
		})
	}
}

// TestHungEngine has an engine that does not answer, and as many clients as connections may be open that wait for it.
func TestHungEngine(t *testing.T) {
	for _, path := range []string{"/api/v1/healthcheck", "/readyz"} {
		bubble(t, path, func(t *testing.T) {
			f := serveLimited(t, fewConns, &fakeBuilder{healthy: func(ctx context.Context) error {
				<-ctx.Done()
				return context.Cause(ctx)
			}})
			for range fewConns {
				f.open("GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n", socketBuffer)
			}
			synctest.Wait()
			begun := time.Now()
			for range 3 {
				if status, _ := f.ask("GET", "/livez"); status != 200 {
					t.Errorf("/livez is %d", status)
				}
			}
			if took := time.Since(begun); took > connlimit.IdleTimeout+time.Millisecond {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// TestTrickle has twice as many clients as connections may be open. Each sends something more of its request, or another
// request, before it has been silent for long, and connects again when its connection is closed. Other clients are
// served all the same, after those that already wait.
func TestTrickle(t *testing.T) {
	const page = "GET / HTTP/1.1\r\nHost: localhost\r\n"
	for name, test := range map[string]struct {
		serve       func(*testing.T, int, Builder, ...func(*Options)) *fixture
		first, more string
	}{
		"header":    {serveLimited, page + "X: ", "x"},
		"requests":  {serveLimited, page + "\r\n", page + "\r\n"},
		"handshake": {serveTLSLimited, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "x"},
		"form": {serveLimited, "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n" +
			"Content-Length: 1000\r\n\r\ntoken=", "x"},
		"job":                  {serveLimited, "POST " + schemas.JobsPath + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{", " "},
		"body that none reads": {serveLimited, page + "Content-Length: 1000\r\n\r\n", "x"},
	} {
		bubble(t, name, func(t *testing.T) {
			f := test.serve(t, fewConns, &fakeBuilder{}, func(o *Options) {
				o.Page = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					io.WriteString(w, strings.Repeat("a page ", 1000)) // more than net/http keeps until the handler returns
				})
			})
			ctx, stop := context.WithCancel(t.Context())
			defer time.AfterFunc(30*time.Second, stop).Stop() // so that a server that they keep busy answers at some time
			var clients sync.WaitGroup
			for range 2 * fewConns {
				clients.Go(func() {
					for ctx.Err() == nil {
						trickle(ctx, f.limiter.Listener.(*memnet.Listener), test.first, test.more)
					}
				})
			}
			synctest.Wait()
			for range 3 {
				begun := time.Now()
				if status, _ := f.ask("GET", "/livez"); status != 200 {
					t.Errorf("the health check is %d", status)
				}
				if took := time.Since(begun); took > 3*connlimit.IdleTimeout {
					t.Errorf("it took %s", took)
				}
			}
			stop()
			clients.Wait()
		})
	}
}

// trickle opens a connection, and sends something and then always more, with less than connlimit.IdleTimeout between, until
// the server closes the connection. It reads what the server sends.
func trickle(ctx context.Context, l *memnet.Listener, first, more string) {
	conn, err := dialMem(ctx, l, socketBuffer)
	if err != nil {
		return // the test ends
	}
	var reader sync.WaitGroup
	reader.Go(func() { io.Copy(io.Discard, conn) })
	defer reader.Wait()
	defer conn.Close()
	for _, err := io.WriteString(conn, first); err == nil && ctx.Err() == nil; _, err = io.WriteString(conn, more) {
		elapse(connlimit.IdleTimeout * 4 / 5)
	}
}

// TestKeepAlive makes one request on each connection. While no others wait, the connection stays open for further requests,
// unless the request has a body that no handler reads.
func TestKeepAlive(t *testing.T) {
	for name, test := range map[string]struct {
		request string
		closes  bool
	}{
		"page":             {"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", false},
		"page with a body": {"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx", true},
		"job":              {"POST " + schemas.JobsPath + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx", false},
	} {
		bubble(t, name, func(t *testing.T) {
			f := serveLimited(t, 1, &fakeBuilder{})
			conn := f.open(test.request, socketBuffer)
			synctest.Wait()
			if got := isClosed(conn); got != test.closes {
				t.Errorf("closed: %t", got)
			}
			if text, err := bufio.NewReader(conn).ReadString('\n'); !strings.HasPrefix(text, "HTTP/1.1 ") {
				t.Errorf("the answer is %q, %v", text, err)
			}
		})
	}
}

// TestAllAnswered opens as many connections as the limit allows, and the server answers a request on each, so that none is
// idle. The next client waits until one of them is closed.
func TestAllAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		f := serveLimited(t, fewConns, &fakeBuilder{}, func(o *Options) {
			o.Page = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				<-answer
				io.WriteString(w, "a page")
			})
		})
		const ask = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
		for range fewConns {
			f.open(ask, socketBuffer)
		}
		synctest.Wait()
		last := f.open(ask, socketBuffer)
		elapse(2 * connlimit.IdleTimeout)
		if n := f.limiter.Len(); n != fewConns {
			t.Fatalf("%d connections count", n)
		}
		answer <- struct{}{}
		elapse(time.Second)
		if n := f.limiter.Len(); n != fewConns {
			t.Errorf("%d connections count when one is answered", n)
		}
		close(answer)
		text, err := io.ReadAll(last)
		if err != nil || !strings.HasSuffix(string(text), "a page") {
			t.Errorf("the last one is answered %q, %v", text, err)
		}
		elapse(time.Second)
		if n := f.limiter.Len(); n != 0 {
			t.Errorf("%d connections count in the end", n)
		}
	})
}

// TestTurns connects maxAnswers clients that do not read their answers: the next client waits for its turn, and may
// disconnect while it waits.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, &fakeBuilder{})
		first := f.dial()
		var stalled []net.Conn
		for range maxAnswers {
			stalled = append(stalled, f.open(webSocketRequest, 0))
		}
		synctest.Wait()
		begun := time.Now()
		leaving := f.open(webSocketRequest, socketBuffer)
		synctest.Wait()
		leaving.Close()
		f.open(webSocketRequest, socketBuffer)
		synctest.Wait()
		if n := len(f.refusedSoFar()); n != maxAnswers {
			t.Fatalf("%d clients have had their turn", n)
		}
		stalled[0].Close()
		synctest.Wait()
		if n := len(f.refusedSoFar()); n != maxAnswers+1 { // not two: one has left
			t.Errorf("%d clients have had their turn", n)
		}
		f.dial().finish().check(t, websocket.CloseInternalServerErr, busy)
		if took := time.Since(begun); took != 0 {
			t.Errorf("it took %s", took)
		}
		for range 2 { // more than get the answer at once; the slot does not delay clients that do not get it
			stalled = append(stalled, f.open(webSocketRequest, 0))
			synctest.Wait()
		}
		f.dial().finish().check(t, websocket.CloseInternalServerErr, busy)
		if took := time.Since(begun); took != handshakeTimeout {
			t.Errorf("it took %s", took)
		}
		first.send("{}")
		first.finish()
	})
}

// TestTurnEnds connects maxAnswers clients that have their answers, but do not close their connections: they do not delay
// other clients.
func TestTurnEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, &fakeBuilder{})
		f.dial() // has the slot
		begun := time.Now()
		for range maxAnswers {
			f.open(webSocketRequest, socketBuffer)
		}
		synctest.Wait()
		c := f.dial()
		if got := c.next(); got != busy || time.Since(begun) != 0 {
			t.Errorf("the next one gets %s after %s", got, time.Since(begun))
		}
	})
}

func (f *fixture) refusedSoFar() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.refused)
}

const webSocketRequest = "GET " + schemas.BuildPath + " HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"

// TestSlotHolderDoesNotCount connects a client over TLS, which gets the slot: its connection does not count against the
// limit.
func TestSlotHolderDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHeldBuilder()
		f := serveTLS(t, b)
		c := f.dial()
		synctest.Wait()
		if n := f.limiter.Len(); n != 0 {
			t.Errorf("%d connections count beside that of the client with the slot", n)
		}
		c.send(job())
		<-b.begun
		b.exit <- 0
		c.finish().check(t, websocket.CloseNormalClosure, accepted, succeeded)
	})
}
