package wsapi

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/schemas"
)

// fewGuests are enough for tests of what happens when there are too many.
const fewGuests = 16

// count returns how many connections count.
func (c *crowd) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.guests)
}

// open makes a connection on which something is sent, and nothing read. The answer may have so
// many bytes until it is.
func (f *fixture) open(send string, buffer int) net.Conn {
	f.t.Helper()
	conn, err := f.crowd.Listener.(*memListener).dial(f.t.Context(), buffer)
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

// TestFlood takes all places for connections, in each way in which a client can keep the server
// waiting, while a job runs: the job goes on, and others are served as soon as those had their
// time.
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
			f := serve(t, b)
			f.crowd.max = fewGuests
			c := f.dial()
			c.send(job())
			ended := c.inBackground()
			<-b.begun
			synctest.Wait()
			if n := f.crowd.count(); n != 0 {
				t.Errorf("%d connections count beside the job's", n)
			}
			var conns []net.Conn
			for range fewGuests {
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
			if took := time.Since(begun); took > patience {
				t.Errorf("it took %s", took)
			}
			if n := f.crowd.count(); n > fewGuests {
				t.Errorf("%d connections count", n)
			}
			// The server itself closes those of WebSockets.
			if !strings.Contains(name, "refus") && (!isClosed(conns[0]) || isClosed(conns[fewGuests-1])) {
				t.Error("it was not the turn of the connection that was closed")
			}
			b.exit <- 0
			(<-ended).check(t, websocket.CloseNormalClosure, accepted, succeeded)
		})
	}
}

// TestFullHouse has all places be taken by those that the server keeps waiting, and so cannot
// be sent away: the next one waits for one of them to leave.
func TestFullHouse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		f := serve(t, &fakeBuilder{healthy: func(context.Context) error { <-answer; return nil }})
		f.crowd.max = fewGuests
		const ask = "GET /api/v1/healthcheck HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
		for range fewGuests {
			f.open(ask, socketBuffer)
		}
		synctest.Wait()
		last := f.open(ask, socketBuffer)
		elapse(2 * patience)
		if n := f.crowd.count(); n != fewGuests {
			t.Fatalf("%d connections count", n)
		}
		answer <- struct{}{}
		elapse(time.Second)
		if n := f.crowd.count(); n != fewGuests {
			t.Errorf("%d connections count when one is answered", n)
		}
		close(answer)
		text, err := io.ReadAll(last)
		if err != nil || !strings.HasSuffix(string(text), healthy) {
			t.Errorf("the last one is answered %q, %v", text, err)
		}
		elapse(time.Second)
		if n := f.crowd.count(); n != 0 {
			t.Errorf("%d connections count in the end", n)
		}
	})
}

// TestManyGuests has as many connections be open as may be, and one more.
func TestManyGuests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Crowd(newMemListener()).(*crowd)
		for range maxGuests {
			if !c.admit(&guest{crowd: c}) {
				t.Fatalf("only %d are admitted", c.count())
			}
		}
		if c.admit(&guest{crowd: c}) {
			t.Error("one too many is admitted")
		}
		c.guests[7].leave()
		if last := (&guest{crowd: c}); !c.admit(last) || !slices.Contains(c.guests, last) || c.count() != maxGuests {
			t.Error("none is admitted when one has left")
		}
	})
}

// TestWaiting has guests be waited for, for some time each.
func TestWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{}
		ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
		for _, test := range []struct {
			name   string
			guests []guest
			want   int
		}{
			{"nobody", nil, -1},
			{"a handler at work", []guest{{answering: true, reading: ago(time.Hour)}}, -1},
			{"not read from", []guest{{}}, -1},
			{"not for long", []guest{{reading: ago(patience)}}, -1},
			{"for long", []guest{{reading: ago(patience + 1)}}, 0},
			{"a write that is not taken", []guest{{answering: true, writing: ago(time.Second)}}, 0},
			{"a write between requests", []guest{{reading: ago(time.Second), writing: ago(patience)}}, -1},
			{"the longest", []guest{{reading: ago(time.Second)}, {reading: ago(time.Minute)}, {writing: ago(2 * time.Second)}, {}}, 1},
		} {
			c.guests = nil
			for i := range test.guests {
				c.guests = append(c.guests, &test.guests[i])
			}
			if got := c.slowest(); got != test.want {
				t.Errorf("%s: %d, want %d", test.name, got, test.want)
			}
		}
	})
}

// TestTurns has so many clients not take what they are told as are told it at once: the next one
// waits for its turn, and may leave while it does.
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
		for range 2 { // more than are told at once; the place is not in the way of those that take none
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

// TestTurnEnds has as many clients as are told something at once have been told it, and not
// close: they are in nobody's way.
func TestTurnEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, &fakeBuilder{})
		f.dial() // has the place
		begun := time.Now()
		for range maxAnswers {
			f.open(webSocketRequest, socketBuffer)
		}
		synctest.Wait()
		c := f.dial()
		if got := c.next(); got != busy || time.Since(begun) != 0 {
			t.Errorf("the next one is told %s after %s", got, time.Since(begun))
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

// TestWithConn finds the guest also below TLS, and none where there is none.
func TestWithConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHeldBuilder()
		f := serveTLS(t, b)
		c := f.dial()
		synctest.Wait()
		if n := f.crowd.count(); n != 0 {
			t.Errorf("%d connections count beside that of the client with the place", n)
		}
		c.send(job())
		<-b.begun
		b.exit <- 0
		c.finish().check(t, websocket.CloseNormalClosure, accepted, succeeded)
		plain := t.Context()
		if WithConn(plain, &memConn{}) != plain {
			t.Error("a connection of no crowd has a guest")
		}
	})
}
