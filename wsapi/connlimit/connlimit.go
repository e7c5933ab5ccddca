// Package connlimit limits how many connections a server has open at once. A flood of clients
// can then neither use up the server's memory nor keep other clients out.
//
// A Listener that is full closes the connection that has been idle for the longest time, and then accepts the next
// one. A connection is idle while the server waits for its client: for a request, or until the client accepts what
// is written to it. If no connection has been idle for longer than IdleTimeout, new clients wait in the kernel,
// where they need no memory of the server. A full Listener does not simply close new connections, because their
// clients may be about to send a request.
//
// A Listener sees only bytes, so the server's handlers must report when they answer a request: see Conn.Answering.
// Use WithConn as the ConnContext of the http.Server; a handler finds its request's connection with Of.
package connlimit

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// MaxConns is the builder's limit of connections. Each takes about 20 KiB of memory. The connection of
	// a running job does not count: see Conn.Release.
	MaxConns = 512
	// IdleTimeout is how long a connection may be idle before a full Listener may close it.
	IdleTimeout = 500 * time.Millisecond
	// fullInterval is how often a full Listener looks for an idle connection.
	fullInterval = time.Millisecond
)

// A Listener is a net.Listener that limits how many of its connections are open.
type Listener struct {
	net.Listener
	max int // how many connections may be open

	mu    sync.Mutex
	conns []*Conn // those that count
}

// Listen returns a Listener that accepts connections from inner, at most max at once. A TLS
// listener, if there is one, must wrap the Listener, not the other way round.
func Listen(inner net.Listener, max int) *Listener { return &Listener{Listener: inner, max: max} }

// Accept waits for the next connection, and then until the limit allows it. The connection is a *Conn. Accept
// returns an error only if the inner listener does.
func (l *Listener) Accept() (net.Conn, error) {
	inner, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &Conn{Conn: inner, listener: l}
	for !l.admit(c) {
		time.Sleep(fullInterval)
	}
	return c, nil
}

// Len returns how many connections count against the limit.
func (l *Listener) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

// admit counts a connection, and closes an idle one if the limit is reached. It returns false
// if the limit is reached and no connection may be closed.
func (l *Listener) admit(c *Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.conns) >= l.max { // more than max if a connection that was released counts again
		i := l.longestIdle()
		if i < 0 {
			return false
		}
		l.conns[i].Conn.Close()
		l.conns = slices.Delete(l.conns, i, i+1)
	}
	l.conns = append(l.conns, c)
	return true
}

// longestIdle returns the index of the connection that is idle for the longest time, or -1 if
// none is idle for longer than IdleTimeout.
func (l *Listener) longestIdle() int {
	longest, since := -1, time.Now().Add(-IdleTimeout)
	for i, c := range l.conns {
		if idle := c.idleSince(); !idle.IsZero() && idle.Before(since) {
			longest, since = i, idle
		}
	}
	return longest
}

// A Conn is one connection of a Listener. Its methods Answering, Release and Count also work on
// nil, and then do nothing.
type Conn struct {
	net.Conn
	listener *Listener

	// Guarded by listener.mu.
	reading   time.Time // when the read in progress began; zero: there is none
	writing   time.Time // when the write in progress began; zero: there is none
	answering bool      // the server is answering a request of the connection
	closed    bool
}

// idleSince returns the time since which the server waits for the client, or zero if it does not. A read does not
// count while a request is answered: net/http also reads then, to notice that the client closes the connection.
func (c *Conn) idleSince() time.Time {
	if c.writing.IsZero() && !c.answering {
		return c.reading
	}
	return c.writing
}

// Answering reports to the Listener whether the server is answering a request of the connection. A handler that
// waits for the rest of a request calls it with false.
func (c *Conn) Answering(isAnswering bool) {
	if c != nil {
		c.set(func() { c.answering = isAnswering })
	}
}

// Release excludes a connection from the limit: it no longer counts, and the Listener does not close it.
func (c *Conn) Release() {
	if c != nil {
		c.set(c.release)
	}
}

func (c *Conn) release() {
	c.listener.conns = slices.DeleteFunc(c.listener.conns, func(other *Conn) bool { return other == c })
}

// Count includes a connection in the limit again, if it was released and is open. The server is answering it: it is
// idle only during writes.
func (c *Conn) Count() {
	if c == nil {
		return
	}
	c.set(func() {
		c.answering = true
		if !c.closed && !slices.Contains(c.listener.conns, c) {
			c.listener.conns = append(c.listener.conns, c)
		}
	})
}

// NetConn returns the connection that c wraps.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Read reads from the connection. The connection is idle during the read.
func (c *Conn) Read(p []byte) (int, error) {
	c.set(func() { c.reading = time.Now() })
	defer c.set(func() { c.reading = time.Time{} })
	return c.Conn.Read(p)
}

// Write writes to the connection. The connection is idle during the write.
func (c *Conn) Write(p []byte) (int, error) {
	c.set(func() { c.writing = time.Now() })
	defer c.set(func() { c.writing = time.Time{} })
	return c.Conn.Write(p)
}

// Close closes the connection and releases it.
func (c *Conn) Close() error {
	c.set(func() {
		c.closed = true
		c.release()
	})
	return c.Conn.Close()
}

func (c *Conn) set(change func()) {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	change()
}

type connKey struct{}

// WithConn is the ConnContext of an http.Server. It returns a context in which Of finds the
// Conn that conn is or wraps. It returns ctx if conn belongs to no Listener.
func WithConn(ctx context.Context, conn net.Conn) context.Context {
	for ; conn != nil; conn = Unwrap(conn) {
		if c, ok := conn.(*Conn); ok {
			return context.WithValue(ctx, connKey{}, c)
		}
	}
	return ctx
}

// Of returns the connection of a request, or nil if its server does not use WithConn.
func Of(r *http.Request) *Conn {
	c, _ := r.Context().Value(connKey{}).(*Conn)
	return c
}

// Unwrap returns the connection that conn wraps, as a *tls.Conn or a *Conn does, or nil if conn
// wraps none.
func Unwrap(conn net.Conn) net.Conn {
	if outer, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return outer.NetConn()
	}
	return nil
}
