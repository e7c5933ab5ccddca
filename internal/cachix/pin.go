package cachix

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
)

// A pin is where a cache's host was found when it was first looked for. Who can write the files
// by which names are resolved later, as root in a job can, does not lead the client elsewhere.
type pin struct {
	host string
	// moves says that another address may be used when none of these answers any more: it has
	// to show the host's certificate.
	moves bool

	mu        sync.Mutex
	addresses []netip.Addr
}

// Pin looks up the cache's host and loads the roots of trust of this machine, so that neither is
// read from a file after it has returned. What fails fails again when the cache is called.
func (c *Client) Pin(ctx context.Context) error {
	_, err := x509.SystemCertPool()      // which is kept
	if c.transport.options.Dial != nil { // a network of its own, which knows its names
		return err
	}
	return errors.Join(err, c.pin.lookUp(ctx))
}

// lookUp pins the host to where it is found now.
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

// dialer is what connects without a pin.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// over returns a dialer that heeds the pin.
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
		for _, ip := range known {
			conn, err := dial(ctx, network, net.JoinHostPort(ip.Unmap().String(), port))
			if err == nil {
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

// InTheOpen reports whether what goes to the cache can be read and changed on its way: its
// address is http://, and not that of this machine or of a private network.
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
