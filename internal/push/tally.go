package push

import (
	"context"
	"errors"
	"sync"

	"iglu.sh/builder/internal/cachix"
)

// A tally counts the results of the uploads. After several failures in a row at the cache, it gives up: the cache itself
// fails. Its methods are safe for concurrent use.
type tally struct {
	say      func(format string, args ...any)
	progress func(done, expected int, bytes int64) // may be nil

	mu       sync.Mutex
	counts   counts
	failures int   // how many uploads have failed since the last success
	gaveUp   error // why no more uploads are tried for now, or nil
}

// counts are numbers of paths and bytes by result.
type counts struct {
	pushed, there, upstream int
	expected                int // how many are to be pushed, including the pushed ones
	narBytes, fileBytes     int64
}

// count changes the counts, and reports the progress.
func (t *tally) count(change func(*counts)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.counts
	change(&t.counts)
	if c := t.counts; t.progress != nil && (c.expected != before.expected || c.pushed != before.pushed) {
		t.progress(c.pushed, c.expected, c.fileBytes)
	}
}

// succeeded does the same for a path that is in the cache now.
func (t *tally) succeeded(change func(*counts)) {
	t.count(func(c *counts) {
		change(c)
		t.failures = 0
	})
}

// maxFailures is after how many failed uploads in a row the tally gives up. Each has been tried several
// times.
const maxFailures = 3

// failed writes to the log that a path could not be pushed. It gives up if the next path would fail, too.
func (t *tally) failed(ctx context.Context, path cachix.Path, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gaveUp != nil || ctx.Err() != nil {
		return
	}
	t.say("could not push %s: %v", path.Name(), err)
	if !isOfCache(err) {
		return
	}
	t.failures++
	if errors.Is(err, cachix.KeyRefused) || cachix.StayedAway(err) || t.failures >= maxFailures {
		t.gaveUp = errGaveUp
		t.say("the cache fails again and again: no more is pushed for now")
	}
}

// isOfCache reports whether an upload has failed at the cache, and not because of the path in the store.
func isOfCache(err error) bool {
	failure, ok := errors.AsType[*cachix.Error](err)
	return ok && failure.Kind != cachix.WrongNar
}

// errGaveUp is the error of a path that is not tried because others have failed.
var errGaveUp = errors.New("not tried any more")

// hasGivenUp returns why no more uploads are tried for now, or nil.
func (t *tally) hasGivenUp() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.gaveUp
}

// tryAgain forgets the failures, because the failed paths are planned again.
func (t *tally) tryAgain(failed int) {
	t.count(func(c *counts) { c.expected -= failed }) // they are counted again
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gaveUp, t.failures = nil, 0
}
