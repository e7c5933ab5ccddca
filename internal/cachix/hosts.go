package cachix

import (
	"fmt"
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

// hosts keep what is known of the hosts of a client, and decide for how long one that fails is tried
// again. Their methods are safe for concurrent use.
type hosts struct {
	options Options

	mu      sync.Mutex
	byName  map[string]*host
	renewed time.Time // until then nothing counts against a host
	noticed time.Time // when the last notice was given
}

// get returns a host. mu is held.
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

// answered notes that a host has answered a call as wanted.
func (h *hosts) answered(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	from := h.get(name)
	from.answers++
	if from.away.IsZero() {
		return
	}
	h.notice("%s answers again, after %s", name, time.Since(from.away).Round(time.Second))
	from.away = time.Time{}
}

// renew is Client.Renew.
func (h *hosts) renew() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.renewed = time.Now()
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
func (h *hosts) next(t *tries, failure *Error, begun time.Time, pause time.Duration) (time.Duration, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.get(failure.host)
	if t.failed == 0 || !failure.away || at.answers != t.answers {
		t.failed++
		t.answers = at.answers
	}
	if t.failed >= h.options.Attempts {
		return 0, false
	}
	if !failure.away {
		if time.Since(h.noticed) >= noticeInterval {
			h.notice("%v; trying again", failure)
		}
		return pause, true
	}
	now := time.Now()
	if at.away.IsZero() {
		// It has been away since it began not to answer; but a part takes long to send.
		at.away = later(begun, now.Add(-h.options.CallTimeout))
		at.outages++
		h.notice("%v; trying again for up to %s", failure, h.options.RetryFor)
	}
	left := later(at.away, h.renewed).Add(h.options.RetryFor).Sub(now)
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

// notice tells who waits. mu is held.
func (h *hosts) notice(format string, args ...any) {
	h.noticed = time.Now()
	if h.options.Notice != nil {
		h.options.Notice(fmt.Sprintf(format, args...))
	}
}

// say is notice for who does not hold mu.
func (h *hosts) say(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notice(format, args...)
}
