package cachix

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// A retrier repeats calls that may succeed later, as long as hosts allows.
type retrier struct{ transport *transport }

// do makes the call, and repeats it if that may help.
func (r *retrier) do(ctx context.Context, call call) error {
	return r.retry(ctx, func() error { return r.transport.once(ctx, call) })
}

// retry calls attempt until it succeeds, fails permanently, has failed too often or for too long, or ctx ends.
func (r *retrier) retry(ctx context.Context, attempt func() error) error {
	var t tries
	for n := 1; ; n++ {
		begun := time.Now()
		err := attempt()
		failure, ok := errors.AsType[*Error](err)
		if !ok {
			return err
		}
		r.distrust(ctx, failure)
		if !failure.again {
			return err
		}
		pause, again := r.transport.hosts.next(&t, failure, begun, r.pause(n, failure.after))
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

// distrust handles a 404 from a cache that has answered before. If the cache does not report its own properties
// any more, it counts as down: a cache that restarts, or has lost its database, or a proxy before it, answers
// so. Otherwise, the 404 is right.
func (r *retrier) distrust(ctx context.Context, failure *Error) {
	if failure.Status != http.StatusNotFound || !r.transport.hosts.has(r.transport.home.Host) || ctx.Err() != nil {
		return
	}
	if !failure.lookUp && r.knowsItself(ctx) {
		return
	}
	failure.Kind, failure.host, failure.again, failure.away = Failing, r.transport.home.Host, true, true
}

// knowsItself reports whether the cache reports its own properties, or refuses that for a known reason.
func (r *retrier) knowsItself(ctx context.Context) bool {
	var cache Cache
	err := r.transport.once(ctx, r.transport.lookUp(&cache))
	if failure, ok := errors.AsType[*Error](err); ok {
		return failure.Status == http.StatusBadRequest || failure.Kind == KeyRefused
	}
	return err == nil && cache.described()
}

const (
	// maxPause is the longest pause before an attempt, unless the server asks for a longer one. It is short, so
	// that work continues soon after a cache is up again.
	maxPause = 5 * time.Second
	// maxRetryAfter is the longest pause that a server can ask for, as in the official client.
	maxRetryAfter = 120 * time.Second
)

// pause returns how long to wait after attempt n has failed. The pause doubles with each attempt. A random part,
// up to half, is subtracted, so that clients do not return all at the same time. It is at least what the server
// asks for.
func (r *retrier) pause(n int, after time.Duration) time.Duration {
	pause := min(r.transport.options.Backoff<<min(n-1, 16), maxPause)
	pause -= time.Duration(rand.Int64N(int64(pause)/2 + 1))
	return max(pause, min(after, maxRetryAfter))
}

// StayedAway reports whether an error says that the cache was down for the whole of Options.RetryFor. Another call
// would fail as well.
func StayedAway(err error) bool {
	failure, ok := errors.AsType[*Error](err)
	return ok && failure.stayedAway
}

// retryAfter parses the header Retry-After: seconds, or a date (RFC 9110, 10.2.3).
func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(text); err == nil {
		return max(0, date.Sub(now))
	}
	return 0
}
