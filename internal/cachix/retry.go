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

// A retrier makes calls again where that may help, for as long as hosts say.
type retrier struct{ transport *transport }

// do makes the call, again where that may help.
func (r *retrier) do(ctx context.Context, call call) error {
	return r.retry(ctx, func() error { return r.transport.once(ctx, call) })
}

// retry calls attempt until it succeeds, fails for good, or has failed too often or for too
// long, or ctx ends.
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

// distrust makes a 404 of a cache that has answered before one of a cache that is away, if it
// does not know itself any more: so one answers that restarts, or lost its database, or what
// is in front of it. Where it knows itself, it is what was asked for that is not there.
func (r *retrier) distrust(ctx context.Context, failure *Error) {
	if failure.Status != http.StatusNotFound || !r.transport.hosts.has(r.transport.home.Host) || ctx.Err() != nil {
		return
	}
	if !failure.lookUp && r.knowsItself(ctx) {
		return
	}
	failure.Kind, failure.host, failure.again, failure.away = Failing, r.transport.home.Host, true, true
}

// knowsItself reports whether the cache says what it is, or why not: to whom, or without what.
func (r *retrier) knowsItself(ctx context.Context) bool {
	var cache Cache
	err := r.transport.once(ctx, r.transport.lookUp(&cache))
	if failure, ok := errors.AsType[*Error](err); ok {
		return failure.Status == http.StatusBadRequest || failure.Kind == KeyRefused
	}
	return err == nil && cache.described()
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
func (r *retrier) pause(n int, after time.Duration) time.Duration {
	pause := min(r.transport.options.Backoff<<min(n-1, 16), maxPause)
	pause -= time.Duration(rand.Int64N(int64(pause)/2 + 1))
	return max(pause, min(after, maxRetryAfter))
}

// StayedAway reports whether an error is of a cache that did not come back for as long as
// Options.RetryFor: another call would fare no better.
func StayedAway(err error) bool {
	failure, ok := errors.AsType[*Error](err)
	return ok && failure.stayedAway
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
