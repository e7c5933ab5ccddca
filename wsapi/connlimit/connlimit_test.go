package connlimit

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bubble runs a test in a bubble of testing/synctest, so waiting takes no time. The test fails if it does not end within
// a minute of the bubble's time.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		watchdog := time.AfterFunc(time.Minute, func() { panic("the test does not end") })
		defer watchdog.Stop()
		test(t)
	})
}

// A pipeListener accepts the connections that are sent to it. When it is closed, it fails.
type pipeListener chan net.Conn

var errClosed = errors.New("the listener is closed")

func (l pipeListener) Accept() (net.Conn, error) {
	conn, ok := <-l
	if !ok {
		return nil, errClosed
	}
	return conn, nil
}

func (l pipeListener) Close() error   { close(l); return nil }
func (l pipeListener) Addr() net.Addr { return nil }

// accept returns both ends of the next connection of a listener. accepted gets the server's end
// when the limit has room for it.
func accept(t *testing.T, l *Listener) (client net.Conn, accepted <-chan *Conn) {
	t.Helper()
	client, server := net.Pipe()
	t.Cleanup(func() { client.Close() })
	admitted := make(chan *Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		admitted <- conn.(*Conn)
	}()
	l.Listener.(pipeListener) <- server
	return client, admitted
}

// TestFull opens one connection, which is the limit, and uses it. The next connection waits until the first has been idle
// for too long, and then the first is closed.
func TestFull(t *testing.T) {
	read := func(c *Conn) { c.Read(make([]byte, 1)) }
	for name, test := range map[string]struct {
		do     func(c *Conn)
		closes bool
	}{
		"reads":                {read, true},
		"writes":               {func(c *Conn) { c.Write([]byte("x")) }, true},
		"writes an answer":     {func(c *Conn) { c.Answering(); c.Write([]byte("x")) }, true},
		"reads an answered":    {func(c *Conn) { c.Answering(); read(c) }, false},
		"reads after answers":  {func(c *Conn) { c.Answering(); c.Waiting(time.Now()); read(c) }, true},
		"neither":              {func(*Conn) {}, false},
		"has read and written": {func(c *Conn) { c.SetDeadline(time.Now()); read(c); c.Write([]byte("x")) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				l := Listen(make(pipeListener), 1)
				client, accepted := accept(t, l)
				first := <-accepted
				go test.do(first)
				synctest.Wait()
				begun := time.Now()
				_, accepted = accept(t, l)
				time.Sleep(10 * IdleTimeout)
				if !test.closes {
					if len(accepted) != 0 || l.Len() != 1 {
						t.Errorf("%d connections count", l.Len())
					}
					begun = time.Now()
					first.Close()
				}
				second := <-accepted
				// The first connection is closed at once, or after the time-out.
				if n, err := client.Read(make([]byte, 1)); err == nil {
					t.Errorf("the client reads %d bytes", n)
				}
				if took := time.Since(begun); !test.closes && took > fullInterval {
					t.Errorf("the next connection waited for %s", took)
				}
				if l.Len() != 1 {
					t.Errorf("%d connections count", l.Len())
				}
				second.Close()
				if l.Len() != 0 {
					t.Errorf("%d connections count in the end", l.Len())
				}
			})
		})
	}
}

// TestIdleTimeout measures how long the next connection waits for an idle one.
func TestIdleTimeout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := Listen(make(pipeListener), 1)
		_, accepted := accept(t, l)
		first := <-accepted
		begun := time.Now()
		go first.Read(make([]byte, 1))
		synctest.Wait()
		_, accepted = accept(t, l)
		second := <-accepted
		if took := time.Since(begun); took <= IdleTimeout || took > IdleTimeout+fullInterval {
			t.Errorf("it waited for %s", took)
		}
		second.Close()
	})
}

// TestParts sends a byte now and then. The connection is closed as if it had sent nothing.
func TestParts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := Listen(make(pipeListener), 1)
		client, accepted := accept(t, l)
		first := <-accepted
		begun := time.Now()
		go io.Copy(io.Discard, first)
		var sender sync.WaitGroup
		sender.Go(func() {
			for err := error(nil); err == nil; _, err = client.Write([]byte("x")) {
				time.Sleep(IdleTimeout / 5)
			}
		})
		if first.OthersWait() {
			t.Error("others wait before there are any")
		}
		_, accepted = accept(t, l)
		synctest.Wait()
		if !first.OthersWait() {
			t.Error("no others wait")
		}
		second := <-accepted
		if took := time.Since(begun); took > IdleTimeout+fullInterval {
			t.Errorf("it waited for %s", took)
		}
		if second.OthersWait() {
			t.Error("others wait when none does any more")
		}
		sender.Wait()
		second.Close()
	})
}

// TestRelease keeps a released connection idle for long: it is not closed, and does not count.
func TestRelease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := Listen(make(pipeListener), 1)
		client, accepted := accept(t, l)
		first := <-accepted
		first.Release()
		if l.Len() != 0 {
			t.Errorf("%d connections count", l.Len())
		}
		got := make(chan byte)
		go func() {
			one := make([]byte, 1)
			io.ReadFull(first, one)
			got <- one[0]
		}()
		time.Sleep(10 * IdleTimeout)
		begun := time.Now()
		_, accepted = accept(t, l)
		second := <-accepted
		if took := time.Since(begun); took != 0 {
			t.Errorf("the next connection waited for %s", took)
		}
		client.Write([]byte("x"))
		if one := <-got; one != 'x' {
			t.Errorf("it reads %q", one)
		}
		first.Release() // again, and then Close releases it
		first.Close()
		if l.Len() != 1 {
			t.Errorf("%d connections count beside it", l.Len())
		}
		second.Close()
	})
}

// TestCount has a connection that was released count again, beyond the limit. It is idle while it writes. The next one is
// accepted when there is room for it.
func TestCount(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := Listen(make(pipeListener), 1)
		client, accepted := accept(t, l)
		first := <-accepted
		first.Release()
		_, accepted = accept(t, l)
		second := <-accepted
		go first.Read(make([]byte, 1))
		for range 2 {
			first.Count()
		}
		if l.Len() != 2 {
			t.Errorf("%d connections count", l.Len())
		}
		_, accepted = accept(t, l)
		time.Sleep(10 * IdleTimeout)
		go first.Write([]byte("x"))
		time.Sleep(10 * IdleTimeout)
		if _, err := client.Read(make([]byte, 1)); err == nil {
			t.Error("the first connection is open")
		}
		if len(accepted) != 0 || l.Len() != 1 {
			t.Errorf("%d connections count", l.Len())
		}
		second.Close()
		third := <-accepted
		first.Close()
		first.Count()
		if l.Len() != 1 {
			t.Errorf("%d connections count in the end", l.Len())
		}
		third.Close()
		(*Conn)(nil).Count()
	})
}

// TestAcceptFails uses an inner listener that fails.
func TestAcceptFails(t *testing.T) {
	l := Listen(make(pipeListener), 1)
	l.Close()
	if conn, err := l.Accept(); conn != nil || err != errClosed {
		t.Errorf("it accepts %v, %v", conn, err)
	}
}

// TestMaxConns opens as many connections as the limit allows, and one more.
func TestMaxConns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := Listen(nil, MaxConns)
		for range MaxConns {
			if !l.admit(&Conn{listener: l}) {
				t.Fatalf("only %d are admitted", l.Len())
			}
		}
		if l.admit(&Conn{listener: l}) {
			t.Error("one too many is admitted")
		}
		l.conns[7].Release()
		if last := (&Conn{listener: l}); !l.admit(last) || !slices.Contains(l.conns, last) || l.Len() != MaxConns {
			t.Error("none is admitted when one was released")
		}
	})
}

// TestLongestIdle keeps connections idle for different times.
func TestLongestIdle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := &Listener{}
		ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
		for _, test := range []struct {
			name  string
			conns []Conn
			want  int
		}{
			{"none", nil, -1},
			{"a handler at work", []Conn{{reading: true}}, -1},
			{"not read from", []Conn{{waiting: ago(time.Hour)}}, -1},
			{"not for long", []Conn{{reading: true, waiting: ago(IdleTimeout)}}, -1},
			{"for long", []Conn{{reading: true, waiting: ago(IdleTimeout + 1)}}, 0},
			{"a write that is not taken", []Conn{{reading: true, writing: ago(time.Second)}}, 0},
			{"a write that is not taken for long", []Conn{{reading: true, writing: ago(IdleTimeout)}}, -1},
			{"a write while a request is awaited", []Conn{{reading: true, waiting: ago(time.Second), writing: ago(IdleTimeout)}}, 0},
			{"the longest", []Conn{{reading: true, waiting: ago(time.Second)}, {reading: true, waiting: ago(time.Minute)}, {writing: ago(2 * time.Second)}, {}}, 1},
		} {
			l.conns = nil
			for i := range test.conns {
				l.conns = append(l.conns, &test.conns[i])
			}
			if got := l.longestIdle(); got != test.want {
				t.Errorf("%s: %d, want %d", test.name, got, test.want)
			}
		}
	})
}

// TestOf finds the connection of a request, also below TLS, and none where there is no limit.
func TestOf(t *testing.T) {
	plain, other := net.Pipe()
	defer plain.Close()
	defer other.Close()
	limited := &Conn{Conn: plain, listener: &Listener{}}
	of := func(conn net.Conn) *Conn {
		return Of(httptest.NewRequest("GET", "/", nil).WithContext(WithConn(context.Background(), conn)))
	}
	for name, test := range map[string]struct {
		conn net.Conn
		want *Conn
	}{
		"limited":         {limited, limited},
		"below TLS":       {tls.Server(limited, &tls.Config{}), limited},
		"no limit":        {plain, nil},
		"TLS, no limit":   {tls.Server(plain, &tls.Config{}), nil},
		"no connection":   {nil, nil},
		"below TLS twice": {tls.Server(tls.Server(limited, &tls.Config{}), &tls.Config{}), limited},
	} {
		if got := of(test.conn); got != test.want {
			t.Errorf("%s: it finds %v, not %v", name, got, test.want)
		}
	}
	if ctx := t.Context(); WithConn(ctx, plain) != ctx {
		t.Error("a connection without a limit changes the context")
	}
	if Unwrap(limited) != plain || Unwrap(plain) != nil {
		t.Error("Unwrap does not return what a connection wraps")
	}
	none := of(plain) // on which a handler calls them all the same
	none.Answering()
	none.Waiting(time.Now())
	none.Release()
	if none.OthersWait() {
		t.Error("others wait where there is no limit")
	}
}
