package cachix

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// A pin has the addresses of a cache's host from the first time that its name was resolved. A program that
// changes the files for resolving names later, which root in a job can do, cannot redirect the client.
type pin struct {
	host string
	// moves is true if another address may be used when none of these answers any more: the host has a
	// certificate, which is checked.
	moves bool

	mu        sync.Mutex
	addresses []netip.Addr // the one that answered last is the first
}

// Pin resolves the name of the cache's host, and loads this machine's root certificates. After it has returned,
// neither is read from a file. If it fails, calls to the cache fail as well.
func (c *Client) Pin(ctx context.Context) error {
	_, err := x509.SystemCertPool()      // x509 keeps the result
	if c.transport.options.Dial != nil { // it resolves names itself
		return err
	}
	return errors.Join(err, c.pin.lookUp(ctx))
}

// lookUp pins the host to its present addresses.
func (p *pin) lookUp(ctx context.Context) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.addresses, err = net.DefaultResolver.LookupNetIP(ctx, "ip", p.host)
	return err
}

func (p *pin) known(host string) []netip.Addr {
	if !strings.EqualFold(host, p.host) {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addresses
}

// prefer makes an address the first. The slices that known has returned do not change.
func (p *pin) prefer(ip netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.addresses[0] != ip {
		others := slices.DeleteFunc(slices.Clone(p.addresses), func(other netip.Addr) bool { return other == ip })
		p.addresses = append([]netip.Addr{ip}, others...)
	}
}

// A dialer makes connections, like net.Dialer.DialContext.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// addressTimeout is how long one address of a host has to accept a connection before the next one is tried. It is much
// shorter than Options.CallTimeout.
const addressTimeout = 5 * time.Second

// within returns the dialer with a time limit.
func (d dialer) within(limit time.Duration) dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return d(ctx, network, address)
	}
}

// over returns a dialer that uses the pinned addresses.
func (p *pin) over(dial dialer) dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		known := p.known(host)
		if len(known) == 0 {
			return dial(ctx, network, address)
		}
		var failed error
		for i, ip := range known {
			dialIP := dial
			if i+1 < len(known) {
				dialIP = dial.within(addressTimeout)
			}
			conn, err := dialIP(ctx, network, net.JoinHostPort(ip.Unmap().String(), port))
			if err == nil {
				p.prefer(ip)
				return conn, nil
			}
			failed = errors.Join(failed, err)
		}
		if !p.moves || ctx.Err() != nil {
			return nil, failed
		}
		return dial(ctx, network, address)
	}
}

// InTheOpen reports whether others can read and change the data that is sent to the cache: its address is
// http://, and is neither this machine nor in a private network.
func (c *Client) InTheOpen() bool {
	if c.transport.home.Scheme != "http" {
		return false
	}
	for _, ip := range c.pin.known(c.pin.host) {
		if ip = ip.Unmap(); !ip.IsLoopback() && !ip.IsPrivate() && !ip.IsLinkLocalUnicast() {
			return true
		}
	}
	return false
}
