package push

import (
	"context"
	"errors"
	"sync"

	"iglu.sh/builder/internal/cachix"
)

// A tally counts what came of the paths, and says when the cache itself fails and no more are to
// be tried. Its methods are safe for concurrent use.
type tally struct {
	say      func(format string, args ...any)
	progress func(done, expected int, bytes int64) // may be nil

	mu       sync.Mutex
	counts   counts
	failures int   // paths that have failed since the last that has not
	gaveUp   error // why nothing more is tried for now, or nil
}

// counts are what came of the paths.
type counts struct {
	pushed, there, upstream int
	expected                int // to be pushed, what is pushed included
	narBytes, fileBytes     int64
}

// count changes the counts, and reports the progress that this is.
func (t *tally) count(change func(*counts)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.counts
	change(&t.counts)
	if c := t.counts; t.progress != nil && (c.expected != before.expected || c.pushed != before.pushed) {
		t.progress(c.pushed, c.expected, c.fileBytes)
	}
}

// succeeded is count for a path that is in the cache now.
func (t *tally) succeeded(change func(*counts)) {
	t.count(func(c *counts) {
		change(c)
		t.failures = 0
	})
}

// maxFailures is how many paths in a row may fail before the cache itself is taken to be
// what fails. Each has been tried several times by then.
const maxFailures = 3

// failed says that a path could not be pushed, and gives up where the next would not fare
// better.
func (t *tally) failed(ctx context.Context, path cachix.Path, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gaveUp != nil || ctx.Err() != nil {
		return
	}
	t.say("could not push %s: %v", path.Name(), err)
	t.failures++
	if errors.Is(err, cachix.KeyRefused) || cachix.StayedAway(err) || t.failures >= maxFailures {
		t.gaveUp = errGaveUp
		t.say("the cache fails again and again: no more is pushed for now")
	}
}

// errGaveUp is why a path is not tried after others have failed.
var errGaveUp = errors.New("not tried any more")

// hasGivenUp returns why nothing more is tried for now, or nil.
func (t *tally) hasGivenUp() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.gaveUp
}

// tryAgain forgets that some paths have failed, which are planned again.
func (t *tally) tryAgain(failed int) {
	t.count(func(c *counts) { c.expected -= failed }) // which is counted again
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gaveUp, t.failures = nil, 0
}
