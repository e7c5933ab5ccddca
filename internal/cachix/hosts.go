package cachix

import (
	"fmt"
	"sync"
	"time"
)

// A host has the state of a host: that of the cache, or one to which parts are sent.
type host struct {
	answers int64     // how many calls have succeeded
	away    time.Time // since when it has been down; zero: it is up
	outages int       // how often it was down
}

// hosts has the state of a client's hosts, and decides how long calls to a failing host are repeated. Its
// methods are safe for concurrent use.
type hosts struct {
	options Options

	mu      sync.Mutex
	byName  map[string]*host
	renewed time.Time // outages before this time are ignored
	noticed time.Time // when the last notice was given
}

// get returns the state of a host. mu is held.
func (h *hosts) get(name string) *host {
	if h.byName[name] == nil {
		if h.byName == nil {
			h.byName = make(map[string]*host)
		}
		h.byName[name] = &host{}
	}
	return h.byName[name]
}

// has reports whether a call to a host has succeeded.
func (h *hosts) has(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.get(name).answers > 0
}

// outages returns how often a host was down.
func (h *hosts) outages(name string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.get(name).outages
}

// answered notes that a call to a host has succeeded.
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

// renew implements Client.Renew.
func (h *hosts) renew() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.renewed = time.Now()
}

// tries has the failed attempts at a call.
type tries struct {
	failed  int       // how many, without those while the host was down
	answers int64     // the host's answers at the last failure
	busy    time.Time // when the host asked for the first time to come back later
}

// next reports whether to make another attempt after a failed one, which began at begun, and after which
// pause.
//
// A host that has answered no call between two failures is down. Such failures are limited by time, for all
// calls together. Other failures are limited in number. A host that asks to come back later gets as many attempts, and
// more until the same time has passed since the first: it may allow a number of calls per minute.
func (h *hosts) next(t *tries, failure *Error, begun time.Time, pause time.Duration) (time.Duration, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.get(failure.host)
	if t.failed == 0 || !failure.away || at.answers != t.answers {
		t.failed++
		t.answers = at.answers
	}
	if failure.Kind == Busy && t.busy.IsZero() {
		t.busy = time.Now()
	}
	isBusy := failure.Kind == Busy && time.Since(t.busy) < h.options.RetryFor
	if t.failed >= h.options.Attempts && !isBusy {
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
		// The host has been down since the attempt began. But sending a part takes long, so it is at most
		// CallTimeout ago.
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

// noticeInterval is the shortest time between two notices of failures, unless a host goes down. It avoids a
// notice for each of many occasional failures.
const noticeInterval = 10 * time.Second

// notice calls Options.Notice. mu is held.
func (h *hosts) notice(format string, args ...any) {
	h.noticed = time.Now()
	if h.options.Notice != nil {
		h.options.Notice(fmt.Sprintf(format, args...))
	}
}

// say is notice for callers that do not hold mu.
func (h *hosts) say(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notice(format, args...)
}
