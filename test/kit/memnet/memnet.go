// Package memnet is a network in memory, for tests in a bubble of testing/synctest: what
// waits there for an answer waits for no system, so that the bubble's clock goes on.
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
	hosts map[string]*listener // by address; nil where nothing listens any more
}

// Serve has a handler answer at an address, HOST:PORT, until the function that it returns is
// called: that breaks all connections off and leaves a host that refuses new ones.
func (n *Network) Serve(address string, handler http.Handler) (kill func()) {
	l := &listener{address: address, conns: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	if n.hosts == nil {
		n.hosts = make(map[string]*listener)
	}
	n.hosts[address] = l
	n.mu.Unlock()
	server := &http.Server{Handler: handler}
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

// Forget makes the host of an address one whose name does not exist.
func (n *Network) Forget(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.hosts, address)
}

// Stall makes the host of an address one that takes no connections and refuses none.
func (n *Network) Stall(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[address] = &listener{address: address, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Dial connects to the server at an address. Where there has never been one, the host does
// not exist; where there is none any more, the connection is refused.
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
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, refused
	case <-ctx.Done():
		return nil, fmt.Errorf("dial %s: %w", address, ctx.Err())
	}
}

// A listener takes the server's ends of connections.
type listener struct {
	address string
	conns   chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return addr(l.address) }

type addr string

func (addr) Network() string  { return "memory" }
func (a addr) String() string { return string(a) }
