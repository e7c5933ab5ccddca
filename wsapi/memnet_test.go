package wsapi

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"iglu.sh/builder/test/kit/memnet"
	"iglu.sh/builder/wsapi/connlimit"
)

// Connections in memory that have buffers and deadlines, as those of [memnet.Network] do not.

// socketBuffer is how many bytes a memConn takes that its other end has not read.
const socketBuffer = 64 << 10

// dialMem connects to a server in memory, which may write a limited number of bytes that the client has not read.
func dialMem(ctx context.Context, l *memnet.Listener, buffer int) (net.Conn, error) {
	toServer, toClient := newMemPipe(socketBuffer), newMemPipe(buffer)
	if err := l.Connect(ctx, &memConn{in: toServer, out: toClient, addr: l.Addr()}); err != nil {
		return nil, err
	}
	return &memConn{in: toClient, out: toServer, addr: l.Addr()}, nil
}

// A memConn is one end of a connection. Like with a socket, each direction has a buffer and can be closed separately.
type memConn struct {
	in, out *memPipe
	addr    net.Addr // of both ends
}

var _ net.Conn = (*memConn)(nil)

func (c *memConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *memConn) Write(p []byte) (int, error) { return c.out.write(p) }

// Close closes both directions. The own reader's is first: what the other end sends when it learns of it is not read, as
// with a socket.
func (c *memConn) Close() error {
	c.in.set(func() { c.in.abandoned = true })
	c.out.set(func() { c.out.ended = true })
	return nil
}

func (c *memConn) CloseWrite() error {
	c.out.set(func() { c.out.ended = true })
	return nil
}

func (c *memConn) LocalAddr() net.Addr  { return c.addr }
func (c *memConn) RemoteAddr() net.Addr { return c.addr }

func (c *memConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *memConn) SetReadDeadline(t time.Time) error {
	c.in.set(func() { c.in.reading.set(t, &c.in.changed) })
	return nil
}

func (c *memConn) SetWriteDeadline(t time.Time) error {
	c.out.set(func() { c.out.writing.set(t, &c.out.changed) })
	return nil
}

// memInfo says of a connection in memory what tcpInfo says of the kernel's.
func memInfo(conn net.Conn) (state tcpState, ok bool) {
	for inner := conn; inner != nil; inner = connlimit.Unwrap(inner) {
		conn = inner
	}
	out := conn.(*memConn).out
	out.set(func() { state = tcpState{taken: out.taken, waiting: len(out.data) > 0} })
	return state, true
}

// A memPipe is one direction of a connection.
type memPipe struct {
	mu      sync.Mutex
	changed sync.Cond

	// Guarded by mu.
	data             []byte // written and not read yet
	taken            uint64 // how many bytes were read
	size             int    // the most that data may hold
	ended            bool   // its writer is closed
	abandoned        bool   // its reader is closed
	reading, writing deadline
}

func newMemPipe(size int) *memPipe {
	p := &memPipe{size: size}
	p.changed.L = &p.mu
	return p
}

func (p *memPipe) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	p.changed.Broadcast()
}

func (p *memPipe) read(to []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.abandoned:
			return 0, net.ErrClosed
		case p.reading.isOver():
			return 0, os.ErrDeadlineExceeded
		case len(p.data) > 0:
			n := copy(to, p.data)
			p.data, p.taken = p.data[n:], p.taken+uint64(n)
			p.changed.Broadcast()
			return n, nil
		case p.ended:
			return 0, io.EOF
		}
		p.changed.Wait()
	}
}

func (p *memPipe) write(from []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.ended:
			return n, net.ErrClosed
		case p.abandoned:
			return n, syscall.EPIPE
		case p.writing.isOver():
			return n, os.ErrDeadlineExceeded
		}
		more := min(len(from)-n, p.size-len(p.data))
		if more > 0 {
			p.data = append(p.data, from[n:n+more]...)
			p.changed.Broadcast()
		}
		if n += more; n == len(from) {
			return n, nil
		}
		p.changed.Wait()
	}
}

// A deadline wakes the goroutines that wait for a pipe.
type deadline struct {
	at    time.Time // zero: none
	timer *time.Timer
}

// set sets a deadline. The caller wakes the goroutines that wait. There is no timer for the past, with which Go 1.26's race
// detector crashes in a bubble: timers that are over at once run in several threads, with one context.
func (d *deadline) set(at time.Time, changed *sync.Cond) {
	if d.timer != nil {
		d.timer.Stop()
	}
	if d.at = at; !at.IsZero() && !d.isOver() {
		// Under the lock, so that nobody is on the way to wait.
		d.timer = time.AfterFunc(time.Until(at), func() {
			changed.L.Lock()
			defer changed.L.Unlock()
			changed.Broadcast()
		})
	}
}

func (d *deadline) isOver() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }
