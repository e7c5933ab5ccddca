package cachix

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// A host is what is known of one that calls go to: that of the cache, or one that parts are
// sent to.
type host struct {
	answers int64     // how many calls it has answered as wanted
	away    time.Time // since when it has been away; zero: it is not
	outages int       // how often it was
}

// hosts are the hosts of a client.
type hosts struct {
	mu      sync.Mutex
	byName  map[string]*host
	renewed time.Time // until then nothing counts against a host
	noticed time.Time // when the last notice was given
}

// get returns a host. hosts.mu is held.
func (h *hosts) get(name string) *host {
	if h.byName[name] == nil {
		if h.byName == nil {
			h.byName = make(map[string]*host)
		}
		h.byName[name] = &host{}
	}
	return h.byName[name]
}

// has reports whether a host has answered a call as wanted.
func (h *hosts) has(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.get(name).answers > 0
}

// outages returns how often a host has been away.
func (h *hosts) outages(name string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.get(name).outages
}

// answeredBy notes that a host has answered a call as wanted.
func (c *Client) answeredBy(name string) {
	c.hosts.mu.Lock()
	defer c.hosts.mu.Unlock()
	h := c.hosts.get(name)
	h.answers++
	if h.away.IsZero() {
		return
	}
	c.notice("%s answers again, after %s", name, time.Since(h.away).Round(time.Second))
	h.away = time.Time{}
}

// Renew gives a cache that is away the whole of Options.RetryFor again, from now on.
func (c *Client) Renew() {
	c.hosts.mu.Lock()
	defer c.hosts.mu.Unlock()
	c.hosts.renewed = time.Now()
}

// StayedAway reports whether an error is of a cache that did not come back for as long as
// Options.RetryFor: another call would fare no better.
func StayedAway(err error) bool {
	failure, ok := errors.AsType[*Error](err)
	return ok && failure.stayedAway
}

// retry calls attempt until it succeeds, fails for good, or has failed too often or for too
// long, or ctx ends.
func (c *Client) retry(ctx context.Context, attempt func() error) error {
	var t tries
	for n := 1; ; n++ {
		begun := time.Now()
		err := attempt()
		failure, ok := errors.AsType[*Error](err)
		if !ok {
			return err
		}
		c.distrust(ctx, failure)
		if !failure.again {
			return err
		}
		pause, again := c.next(&t, failure, begun, c.pause(n, failure.after))
		if !again {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("%w; not tried again: %w", err, context.Cause(ctx))
		}
	}
}

// distrust makes a 404 of a cache that has answered before one of a cache that is away, if it
// does not know itself any more: so one answers that restarts, or lost its database, or what
// is in front of it. Where it knows itself, it is what was asked for that is not there.
func (c *Client) distrust(ctx context.Context, failure *Error) {
	if failure.Status != http.StatusNotFound || !c.hosts.has(c.home.Host) || ctx.Err() != nil {
		return
	}
	if !failure.lookUp && c.knowsItself(ctx) {
		return
	}
	failure.Kind, failure.host, failure.again, failure.away = Failing, c.home.Host, true, true
}

// knowsItself reports whether the cache says what it is, or why not: to whom, or without what.
func (c *Client) knowsItself(ctx context.Context) bool {
	var cache Cache
	err := c.once(ctx, c.lookUp(&cache))
	if failure, ok := errors.AsType[*Error](err); ok {
		return failure.Status == http.StatusBadRequest || failure.Kind == KeyRefused
	}
	return err == nil && cache.described()
}

// tries are the attempts at one call that have failed.
type tries struct {
	failed  int   // how many, but those that the host was away for
	answers int64 // of the host, at the last failure
}

// next reports whether to make another attempt after one, begun at a time, has failed, and
// after which pause.
//
// A host that answers nothing in between is away: that is bounded by time, in all calls
// together. All other failures are counted.
func (c *Client) next(t *tries, failure *Error, begun time.Time, pause time.Duration) (time.Duration, bool) {
	c.hosts.mu.Lock()
	defer c.hosts.mu.Unlock()
	h := c.hosts.get(failure.host)
	if t.failed == 0 || !failure.away || h.answers != t.answers {
		t.failed++
		t.answers = h.answers
	}
	if t.failed >= c.options.Attempts {
		return 0, false
	}
	if !failure.away {
		if time.Since(c.hosts.noticed) >= noticeInterval {
			c.notice("%v; trying again", failure)
		}
		return pause, true
	}
	now := time.Now()
	if h.away.IsZero() {
		// It has been away since it began not to answer; but a part takes long to send.
		h.away = later(begun, now.Add(-c.options.CallTimeout))
		h.outages++
		c.notice("%v; trying again for up to %s", failure, c.options.RetryFor)
	}
	left := later(h.away, c.hosts.renewed).Add(c.options.RetryFor).Sub(now)
	if left <= 0 {
		failure.stayedAway = true
		return 0, false
	}
	return min(pause, left), true
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// noticeInterval is how long nothing is said of another failure, unless a host goes away: of
// many calls that fail now and then, one is enough.
const noticeInterval = 10 * time.Second

// notice tells who waits. hosts.mu is held.
func (c *Client) notice(format string, args ...any) {
	c.hosts.noticed = time.Now()
	if c.options.Notice != nil {
		c.options.Notice(fmt.Sprintf(format, args...))
	}
}

// say is notice for who does not hold hosts.mu.
func (c *Client) say(format string, args ...any) {
	c.hosts.mu.Lock()
	defer c.hosts.mu.Unlock()
	c.notice(format, args...)
}

const (
	// maxPause bounds the wait before an attempt where the server does not say: a cache that
	// is back should not have to wait for long.
	maxPause = 5 * time.Second
	// maxRetryAfter bounds the wait that a server can ask for: that of the official
	// client.
	maxRetryAfter = 120 * time.Second
)

// pause returns how long to wait after attempt n has failed: twice as long each time,
// less up to half of it by chance so that clients do not come back all at once, and
// no less than the server asks for.
func (c *Client) pause(n int, after time.Duration) time.Duration {
	pause := min(c.options.Backoff<<min(n-1, 16), maxPause)
	pause -= time.Duration(rand.Int64N(int64(pause)/2 + 1))
	return max(pause, min(after, maxRetryAfter))
}

// retryAfter reads the header of that name: seconds, or a date (RFC 9110, 10.2.3).
func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(text); err == nil {
		return max(0, date.Sub(now))
	}
	return 0
}
