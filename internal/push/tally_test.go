package push

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/cachix"
	"iglu.sh/builder/test/kit/devcache"
)

// The progress is reported whenever it changes, and only then. The summary has the sums of all paths.
func TestTotals(t *testing.T) {
	inBubble(t, devcache.Strict, func(t *testing.T, f *fixture) {
		type progress struct {
			done, expected int
			bytes          int64
		}
		var reported []progress
		f.options.Progress = func(done, expected int, bytes int64) {
			reported = append(reported, progress{done, expected, bytes})
		}
		first := f.store.add("first")
		last := f.store.add("last", first)
		f.run(last)
		var narBytes int64
		for _, info := range f.store.infos {
			narBytes += info.NarSize
		}
		bytes := int64(0)
		for i, p := range reported {
			if i > 0 && p == reported[i-1] || p.bytes < bytes || (p.done > 1) != (p.bytes > bytes && bytes > 0) {
				t.Errorf("report %d of %v is wrong", i, reported)
			}
			bytes = p.bytes
		}
		if n := len(reported); n < 3 || reported[n-1].done != 2 || reported[n-2].done != 1 {
			t.Errorf("the progress was %v", reported)
		}
		if n := f.lines(": pushing "); n > 0 {
			t.Errorf("%d lines about the beginning of small uploads", n)
		}
		f.wantLine(fmt.Sprintf("…: push: 2 paths pushed (%s, %s compressed), 0 already there, …", size(narBytes), size(bytes)))
	})
}

// The progress and the summary are about the paths of the whole build. A path that the cache turns out to have is not expected
// any more.
func TestTotalsOfBuild(t *testing.T) {
	for _, kind := range []devcache.Kind{devcache.Strict, devcache.Monorepo} { // the lists of the latter are useless
		inBubble(t, kind, func(t *testing.T, f *fixture) {
			there := f.store.add("there")
			f.run(there)
			f.store.remove(there)
			var done, expected int
			f.options.Progress = func(d, e int, _ int64) { done, expected = d, e }
			j := f.watch()
			for _, name := range []string{"there", "first", "second"} {
				f.store.add(name)
				time.Sleep(time.Minute)
			}
			j.finish(f.store.add("last"))
			if done != 3 || expected != 3 {
				t.Errorf("%s: %d of %d, want 3 of 3", kind, done, expected)
			}
			f.wantTotal(3, 1, 0)
		})
	}
}

// The summary says what was pushed, and names up to three of the paths that failed by themselves.
func TestSum(t *testing.T) {
	failure := func(name, why string) *entry {
		return &entry{path: cachix.Path{StorePath: cachix.StoreDir + strings.Repeat("0", 32) + "-" + name}, err: errors.New(why)}
	}
	because := func(err error) *entry {
		e := failure("other", "")
		e.err = fmt.Errorf("not pushed: %w", err)
		return e
	}
	some := counts{pushed: 3, there: 2, upstream: 1, narBytes: 3 << 20, fileBytes: 1 << 20}
	const pushed = "push: 3 paths pushed (3 MiB, 1 MiB compressed), 2 already there, 1 skipped as upstream's; 1.5s after the build"
	for name, test := range map[string]struct {
		counts counts
		failed []*entry
		err    error
		want   string
	}{
		"all":        {some, nil, nil, ""},
		"one failed": {some, []*entry{failure("a", "broken")}, nil, "1 of 6 paths could not be pushed: a: broken"},
		"others failed because of it": {some, []*entry{because(errReference), failure("a", "broken"), because(errGaveUp)}, nil,
			"3 of 8 paths could not be pushed: a: broken"},
		"three": {some, []*entry{failure("c", "3"), failure("a", "1"), failure("b", "2")}, nil,
			"3 of 8 paths could not be pushed: a: 1; b: 2; c: 3"},
		"five": {some, []*entry{failure("a", "1"), failure("b", "2"), failure("c", "3"), failure("d", "4"), failure("e", "5")}, nil,
			"5 of 10 paths could not be pushed: a: 1; b: 2; c: 3; and 2 more like these"},
		"the store failed": {some, nil, errors.New("broken"), "its results could not be pushed: broken"},
	} {
		var log []string
		sum := &tally{counts: test.counts, say: func(format string, args ...any) { log = append(log, fmt.Sprintf(format, args...)) }}
		got := sum.sum(test.failed, test.err, 1500*time.Millisecond)
		want := []string{pushed}
		if test.want != "" {
			want = append(want, "push: NOT COMPLETE: "+test.want)
		}
		if got != test.want || !slices.Equal(log, want) {
			t.Errorf("%s: %q, and the log is %q", name, got, log)
		}
	}
}

func TestRate(t *testing.T) {
	for _, test := range []struct {
		bytes int64
		took  time.Duration
		want  string
	}{{10 << 20, 2 * time.Second, "5 MiB/s"}, {1 << 20, time.Second / 2, "2 MiB/s"}, {1, 0, "976.6 KiB/s"}} {
		if got := rate(test.bytes, test.took); got != test.want {
			t.Errorf("%d bytes in %s: %s, want %s", test.bytes, test.took, got, test.want)
		}
	}
}

// After three failures in a row, no more is pushed, and failures are no longer written to the log. A success in between
// counts. A failure because the job has ended is none, and neither is one of the store.
func TestFailures(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var log []string
	tally := &tally{say: func(format string, args ...any) { log = append(log, fmt.Sprintf(format, args...)) }}
	failWith := func(ctx context.Context, n int, err error) {
		for range n {
			tally.failed(ctx, cachix.Path{StorePath: cachix.StoreDir + strings.Repeat("0", 32) + "-a"}, err)
		}
	}
	fail := func(ctx context.Context, n int) { failWith(ctx, n, &cachix.Error{Kind: cachix.Failing}) }
	check := func(when string, lines int, gaveUp bool) {
		t.Helper()
		if len(log) != lines || (tally.hasGivenUp() != nil) != gaveUp {
			t.Errorf("%s: given up: %v; %d lines, want %d: %q", when, tally.hasGivenUp(), len(log), lines, log)
		}
	}
	fail(ended, 5)
	check("at the end of the job", 0, false)
	fail(t.Context(), 2)
	tally.succeeded(func(*counts) {})
	fail(t.Context(), 2)
	check("after a success", 4, false)
	fail(t.Context(), 5)
	check("after three failures", 6, true) // the last says that nothing more is pushed
	tally.count(func(c *counts) { c.expected = 5 })
	tally.tryAgain(3)
	check("again", 6, false)
	if tally.counts.expected != 2 {
		t.Errorf("%d paths are expected, want those that have not failed", tally.counts.expected)
	}
	fail(t.Context(), 2)
	check("again, after two failures", 8, false)
	failWith(t.Context(), 3, fmt.Errorf("push a: %w", errors.New("input/output error")))
	failWith(t.Context(), 3, &cachix.Error{Kind: cachix.WrongNar})
	check("after failures of the store", 14, false)
}
