// Package connlimit limits how many connections a server has open at once. A flood of clients
// can then neither use up the server's memory nor keep other clients out.
//
// A Listener that is full closes the connection that has been idle for the longest time, and then accepts the next
// one. A connection is idle while the server waits for its client: for a request, or until the client accepts what
// is written to it. A part of a request does not end that time, so a client cannot stay by sending a byte now and then.
// If no connection has been idle for longer than IdleTimeout, new clients wait in the kernel, where they need no memory of
// the server. Meanwhile the server should close each connection whose request it has answered: see Conn.OthersWait. A
// full Listener does not simply close new connections, because their clients may be about to send a request.
//
// A Listener sees only bytes, so the server's handlers must report when they answer a request: see Conn.Answering and
// Conn.Waiting. Use WithConn as the ConnContext of the http.Server; a handler finds its request's connection with Of.
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

	mu         sync.Mutex
	conns      []*Conn // those that count
	othersWait bool    // a new connection waits until the limit allows it
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
	l.othersWait = false
	for len(l.conns) >= l.max { // more than max if a connection that was released counts again
		i := l.longestIdle()
		if i < 0 {
			l.othersWait = true
			return false
		}
		l.conns[i].Conn.Close()
		l.conns = slices.Delete(l.conns, i, i+1)
	}
	c.waiting = time.Now()
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

// A Conn is one connection of a Listener. Its methods Answering, Waiting, OthersWait, Release and Count also work on nil,
// and then do nothing.
type Conn struct {
	net.Conn
	listener *Listener

	// Guarded by listener.mu.
	reading bool      // a read is in progress
	writing time.Time // when the write in progress began; zero: there is none
	waiting time.Time // since when the server waits for a request or its rest; zero: it answers one
	closed  bool
}

// idleSince returns the time since which the server waits for the client, or zero if it does not. A read does not
// count while a request is answered: net/http also reads then, to notice that the client closes the connection.
func (c *Conn) idleSince() time.Time {
	if c.reading && !c.waiting.IsZero() {
		return c.waiting
	}
	return c.writing
}

// Answering reports to the Listener that the server answers a request of the connection.
func (c *Conn) Answering() { c.Waiting(time.Time{}) }

// Waiting reports to the Listener since when the server waits for the client: for its next request, or for the rest of
// the present one. A server that gets only a part of what it waits for still waits since then.
func (c *Conn) Waiting(since time.Time) {
	if c != nil {
		c.set(func() { c.waiting = since })
	}
}

// OthersWait reports whether new connections wait for the end of others. The server should then close the connection
// when it has answered its request. Otherwise clients could keep others out with a request now and then.
func (c *Conn) OthersWait() (others bool) {
	if c != nil {
		c.set(func() { others = c.listener.othersWait })
	}
	return others
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

// Count includes a connection in the limit again, if it was released and is open. It also reports that the server answers
// a request of the connection.
func (c *Conn) Count() {
	if c == nil {
		return
	}
	c.set(func() {
		c.waiting = time.Time{}
		if !c.closed && !slices.Contains(c.listener.conns, c) {
			c.listener.conns = append(c.listener.conns, c)
		}
	})
}

// NetConn returns the connection that c wraps.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Read reads from the connection. The connection is idle during the read, unless the server answers a request.
func (c *Conn) Read(p []byte) (int, error) {
	c.set(func() { c.reading = true })
	defer c.set(func() { c.reading = false })
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
