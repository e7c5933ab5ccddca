package cachix

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestPin changes the addresses of a pinned host's name.
func TestPin(t *testing.T) {
	refused := errors.New("refused")
	for name, test := range map[string]struct {
		moves bool
		dial  string
		up    string // what answers
		want  []string
		fails bool
	}{
		"the pinned address":                {false, "cache:80", "192.0.2.1:80", []string{"192.0.2.1:80"}, false},
		"the second":                        {false, "Cache:80", "[2001:db8::1]:80", []string{"192.0.2.1:80", "[2001:db8::1]:80"}, false},
		"none":                              {false, "cache:80", "cache:80", []string{"192.0.2.1:80", "[2001:db8::1]:80"}, true},
		"none, but a certificate is shown":  {true, "cache:443", "cache:443", []string{"192.0.2.1:443", "[2001:db8::1]:443", "cache:443"}, false},
		"another host, which is not pinned": {false, "uploads:443", "uploads:443", []string{"uploads:443"}, false},
	} {
		p := &pin{host: "cache", moves: test.moves, addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}}
		var dialled []string
		client, _ := net.Pipe()
		_, err := p.over(func(_ context.Context, _, address string) (net.Conn, error) {
			dialled = append(dialled, address)
			if address != test.up {
				return nil, refused
			}
			return client, nil
		})(t.Context(), "tcp", test.dial)
		if diff := cmp.Diff(test.want, dialled); diff != "" || (err != nil) != test.fails {
			t.Errorf("%s: error %v, dialled (-want +got):\n%s", name, err, diff)
		}
	}
}

// A host may move to an address that is not pinned only if it shows a certificate.
func TestPinOfTarget(t *testing.T) {
	for target, moves := range map[string]bool{"http://cache.example.com/default": false, "https://cache.example.com:8443/default": true} {
		if pin := newClient(t, target, quick()).pin; pin.moves != moves || pin.host != "cache.example.com" {
			t.Errorf("%s: host %s, moves: %t", target, pin.host, pin.moves)
		}
	}
}

// TestPinnedAddressIsSilent has a host whose first address never answers, for example because the network drops IPv6.
func TestPinnedAddressIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const silent, up = "[2001:db8::1]:443", "192.0.2.1:443"
		p := &pin{host: "cache", addresses: []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.1")}}
		var dialled []string
		client, _ := net.Pipe()
		dial := p.over(func(ctx context.Context, _, address string) (net.Conn, error) {
			dialled = append(dialled, address)
			if address == silent {
				<-ctx.Done()
			}
			return client, ctx.Err()
		})
		ctx, cancel := context.WithTimeout(t.Context(), Options{}.withDefaults().CallTimeout)
		defer cancel()
		for range 2 {
			if _, err := dial(ctx, "tcp", "cache:443"); err != nil {
				t.Error(err)
			}
		}
		if diff := cmp.Diff([]string{silent, up, up}, dialled); diff != "" {
			t.Errorf("dialled (-want +got):\n%s", diff)
		}
	})
}

// TestPinKeepsAddresses has a host whose addresses fail one after the other. The one that fails later does not make the host
// forget the first.
func TestPinKeepsAddresses(t *testing.T) {
	const first, second = "192.0.2.1:443", "192.0.2.2:443"
	p := &pin{host: "cache", addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}}
	down := first
	var dialled []string
	client, _ := net.Pipe()
	dial := p.over(func(_ context.Context, _, address string) (net.Conn, error) {
		dialled = append(dialled, address)
		if address == down {
			return nil, errors.New("refused")
		}
		return client, nil
	})
	for _, down = range []string{first, second} {
		if _, err := dial(t.Context(), "tcp", "cache:443"); err != nil {
			t.Errorf("without %s: %v", down, err)
		}
	}
	if diff := cmp.Diff([]string{first, second, second, first}, dialled); diff != "" {
		t.Errorf("dialled (-want +got):\n%s", diff)
	}
}

// TestOnlyAddressIsSlow has a host whose only address answers slowly. There is no other to be tried instead, so it has the time
// of the call.
func TestOnlyAddressIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pin{host: "cache", addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
		client, _ := net.Pipe()
		_, err := p.over(func(ctx context.Context, _, _ string) (net.Conn, error) {
			time.Sleep(2 * addressTimeout)
			return client, ctx.Err()
		})(t.Context(), "tcp", "cache:443")
		if err != nil {
			t.Error(err)
		}
	})
}

func TestInTheOpen(t *testing.T) {
	for target, want := range map[string]bool{
		"http://127.0.0.1/c": false, "http://[::1]:80/c": false, "http://10.1.2.3/c": false, "http://[fd00::1]/c": false,
		"https://192.0.2.1/c": false, "http://192.0.2.1/c": true, "http://[2001:db8::1]:8080/c": true,
	} {
		c, err := New(target, "", Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Pin(t.Context()); err != nil {
			t.Errorf("%s: %v", target, err)
		}
		if got := c.InTheOpen(); got != want {
			t.Errorf("%s: in the open %t, want %t", target, got, want)
		}
		c.Close()
	}
}
