package agent

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestDrainUnused stops an agent to which a client has opened a connection that it does not need. HTTP clients do so if
// another connection becomes free while they connect, and close it half a minute later.
func TestDrainUnused(t *testing.T) {
	t.Parallel()
	e := startEngine(t, nil)
	k := install(t)
	a := startAgent(t, Options{Keys: k.agent, Socket: e.socket})
	unused := dial(t, k.server, a.address)
	e.accept(t)
	a.stop()
	a.awaitEnd(t)
	wantBroken(t, unused)
}

// TestDrainBetweenPings stops an agent whose engine answers slowly and whose servers ping it all the time.
func TestDrainBetweenPings(t *testing.T) {
	t.Parallel()
	const interval = 5 * time.Second // as in orchestrator
	tests := map[string]struct {
		servers int
		answer  time.Duration // how long the engine takes to answer the agent, and the pings
	}{
		"one server, slow engine":    {1, 4 * time.Second},
		"three servers":              {3, time.Millisecond},
		"three servers, slow engine": {3, 500 * time.Millisecond},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &service{conns: make(map[*passage]struct{}), log: slog.New(slog.DiscardHandler)}
				ctx, stop := context.WithCancel(t.Context())
				var pings sync.WaitGroup
				defer pings.Wait()
				defer stop()
				for i := range test.servers {
					phase := interval / time.Duration(test.servers) * time.Duration(i)
					pings.Go(func() { servePings(ctx, s, interval, phase, test.answer) })
				}
				begun := time.Now()
				s.drain(t.Context(), Options{Grace: 6 * time.Hour, Running: func(context.Context) (bool, error) {
					time.Sleep(test.answer)
					return false, nil
				}})
				if took := time.Since(begun); took > 3*interval {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// servePings passes on the pings of a server until ctx ends: it asks the engine on a connection that stays open, and on a
// new one only what protocol the agent has.
func servePings(ctx context.Context, s *service, interval, phase, answer time.Duration) {
	p := newPassage(nil, nil)
	s.add(p)
	defer s.remove(p)
	time.Sleep(phase)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for ctx.Err() == nil {
		p.pass(nil, io.Discard, true)
		time.Sleep(answer)
		p.pass(nil, io.Discard, false)
		handshake := newPassage(nil, nil)
		s.add(handshake)
		time.Sleep(time.Millisecond)
		s.remove(handshake)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}
