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
	// vanishedTime is after how long without an acknowledgement the other side counts as gone: longer
	// than jobs live without their builder, so that no job is lost to an outage that it survives.
	vanishedTime = time.Minute
)

// keepAlive has the kernel ask for a silent side. vanishedTime, not a count of probes, ends it.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 9}

// Dial connects to an agent by any of its addresses. Its ctx ends the attempt, not the connection.
//
// If the agent refuses the key, the first read says so: in TLS 1.3 a client is ready before it is verified.
func (k *Keys) Dial(ctx context.Context, address string) (*tls.Conn, error) {
	return k.dialFor(ctx, address, protocolServing, protocolDraining)
}

// dialFor offers protocols.
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

// IsDraining reports whether the agent at an address was asked to stop: it goes on for its jobs, and should
// get no more of them.
func (k *Keys) IsDraining(ctx context.Context, address string) (bool, error) {
	conn, err := k.Dial(ctx, address) // a connection says what was so when it was made
	if err != nil {
		return false, err
	}
	defer conn.Close()
	return isDraining(conn), nil
}

func isDraining(conn *tls.Conn) bool {
	return conn.ConnectionState().NegotiatedProtocol == protocolDraining
}

// Check reports whether the agent with the same keys answers at an address of this machine. The agent
// refuses its own key afterwards, and the engine is not asked.
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
	// Connections have the listener's options.
	config := net.ListenConfig{KeepAliveConfig: keepAlive, Control: withUserTimeout}
	return config.Listen(ctx, "tcp", address)
}
