package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"
)

const (
	// dialTimeout bounds the connection to an agent, its handshake included.
	dialTimeout = 10 * time.Second
	// vanishedTime is how long the other side may acknowledge nothing before the connection is closed. It
	// is longer than jobs run without their builder, so that no job is lost to a shorter outage.
	vanishedTime = time.Minute
)

// keepAlive lets the kernel probe a silent side. On Linux, vanishedTime ends the connection, not the count of
// probes.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 9}

// Dial connects to the agent at an address. The end of ctx ends the attempt, not the connection.
//
// If the agent refuses the client's key, Dial succeeds and the first read fails: in TLS 1.3 the client's
// handshake ends before the agent has verified the client.
func (k *Keys) Dial(ctx context.Context, address string) (*tls.Conn, error) {
	return k.dialFor(ctx, address, protocolServing, protocolDraining)
}

// dialFor is Dial, with the protocols to offer.
func (k *Keys) dialFor(ctx context.Context, address string, protocols ...string) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	dialer := &net.Dialer{KeepAliveConfig: keepAlive, Control: withUserTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	config := k.dialing()
	config.NextProtos = protocols
	client := tls.Client(conn, config)
	if err := client.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("handshake with the agent at %s: %w", address, err)
	}
	return client, nil
}

// IsDraining reports whether the agent at an address was asked to stop. Such an agent keeps serving its running
// jobs, and should get no new ones.
func (k *Keys) IsDraining(ctx context.Context, address string) (bool, error) {
	conn, err := k.Dial(ctx, address) // the answer is part of the handshake, so it needs a new connection
	if err != nil {
		return false, err
	}
	defer conn.Close()
	return isDraining(conn), nil
}

func isDraining(conn *tls.Conn) bool {
	return conn.ConnectionState().NegotiatedProtocol == protocolDraining
}

// Check returns nil if an agent with the same keys answers at an address of this machine. The agent then closes
// the connection, because the key is its own. The engine is not checked.
func Check(ctx context.Context, k *Keys, address string) error {
	config := k.dialing()
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if err := k.verify(state); err != errOwnKey {
			return fmt.Errorf("another one answers there: %w", errStranger)
		}
		return nil
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

func listen(ctx context.Context, address string) (net.Listener, error) {
	// Accepted connections inherit the listener's options.
	config := net.ListenConfig{KeepAliveConfig: keepAlive, Control: withUserTimeout}
	return config.Listen(ctx, "tcp", address)
}
