package fakeengine

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
)

// A conn is one end of a connection in memory. Its errors have the same types and texts as those of the
// operating system.
type conn struct {
	net.Conn
	wasReset *atomic.Bool // of both ends
	isClosed atomic.Bool  // this end
	limit    int          // if not 0, this end closes after so many bytes were written
}

func newConns() (client, server *conn) {
	a, b := net.Pipe()
	reset := new(atomic.Bool)
	return &conn{Conn: a, wasReset: reset}, &conn{Conn: b, wasReset: reset}
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, c.failure("read", err)
}

func (c *conn) Write(p []byte) (int, error) {
	if c.limit == 0 {
		n, err := c.Conn.Write(p)
		return n, c.failure("write", err)
	}
	n, err := c.Conn.Write(p[:min(len(p), c.limit)])
	if c.limit -= n; c.limit == 0 {
		c.Close()
		err = io.ErrClosedPipe
	}
	return n, c.failure("write", err)
}

func (c *conn) Close() error {
	c.isClosed.Store(true)
	return c.Conn.Close()
}

// reset closes both ends. Both get the error of a reset.
func (c *conn) reset() {
	c.wasReset.Store(true)
	c.Conn.Close()
}

func (c *conn) failure(op string, err error) error {
	gone := errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe)
	switch {
	case gone && c.isClosed.Load():
		err = net.ErrClosed
	case gone && c.wasReset.Load():
		err = os.NewSyscallError(op, syscall.ECONNRESET)
	case errors.Is(err, io.ErrClosedPipe):
		err = os.NewSyscallError(op, syscall.EPIPE)
	default:
		return err
	}
	return &net.OpError{Op: op, Net: "unix", Err: err}
}

// Dial connects to the engine. It is an argument for client.WithDialContext.
func (e *Engine) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	e.mu.Lock()
	down := e.down
	e.mu.Unlock()
	if down != nil {
		return nil, &net.OpError{Op: "dial", Net: "unix", Addr: &net.UnixAddr{Name: "/run/docker.sock", Net: "unix"}, Err: os.NewSyscallError("connect", down)}
	}
	client, server := newConns()
	select {
	case e.accept <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A listener passes the engine's ends of connections to its HTTP server.
type listener struct{ *Engine }

func (l listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		l.mu.Lock()
		defer l.mu.Unlock()
		l.conns = append(l.conns, c)
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l listener) Close() error   { return nil }
func (l listener) Addr() net.Addr { return &net.UnixAddr{Name: "/run/docker.sock", Net: "unix"} }
