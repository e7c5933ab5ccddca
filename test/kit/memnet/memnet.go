// Package memnet is a network in memory for tests with testing/synctest. Real sockets stop the clock of a
// synctest bubble, because a goroutine that waits for the system does not count as blocked. A [Network]'s
// connections do not.
package memnet

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
)

// A Network connects clients and servers. The zero Network has no hosts.
type Network struct {
	mu    sync.Mutex
	hosts map[string]*Listener // by address; nil if nothing listens any more
}

// Serve serves a handler at an address, HOST:PORT, to clients of HTTP/1.1 and to those of HTTP/2 without TLS. Call kill to break all connections and refuse new ones.
func (n *Network) Serve(address string, handler http.Handler) (kill func()) {
	l := Listen(address)
	n.mu.Lock()
	if n.hosts == nil {
		n.hosts = make(map[string]*Listener)
	}
	n.hosts[address] = l
	n.mu.Unlock()
	server := &http.Server{Handler: handler, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(l)
	}()
	return func() {
		n.mu.Lock()
		n.hosts[address] = nil
		n.mu.Unlock()
		server.Close()
		<-served
	}
}

// Forget removes the host of an address, so that its name does not resolve.
func (n *Network) Forget(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.hosts, address)
}

// Stall makes the host of an address neither accept nor refuse connections.
func (n *Network) Stall(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[address] = Listen(address)
}

// Dial connects to the server at an address. If there was never one, the error says that the host does not
// exist. If it was killed, the connection is refused.
func (n *Network) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	n.mu.Lock()
	l, known := n.hosts[address]
	n.mu.Unlock()
	if !known {
		host, _, _ := net.SplitHostPort(address)
		return nil, &net.OpError{Op: "dial", Net: network, Err: &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}}
	}
	refused := &net.OpError{Op: "dial", Net: network, Addr: addr(address), Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	if l == nil {
		return nil, refused
	}
	client, server := net.Pipe()
	switch err := l.Connect(ctx, server); err {
	case nil:
		return client, nil
	case syscall.ECONNREFUSED:
		return nil, refused
	default:
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
}

// A Listener accepts the server's ends of connections.
type Listener struct {
	address addr
	conns   chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

// Listen returns a listener that no [Network] knows.
func Listen(address string) *Listener {
	return &Listener{address: addr(address), conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Connect waits until the listener accepts the server's end of a connection.
func (l *Listener) Connect(ctx context.Context, server net.Conn) error {
	select {
	case l.conns <- server:
		return nil
	case <-l.closed:
		return syscall.ECONNREFUSED
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *Listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *Listener) Addr() net.Addr { return l.address }

type addr string

func (addr) Network() string  { return "memory" }
func (a addr) String() string { return string(a) }
