package push

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/test/kit/devcache"
)

// The cache is down for less than a minute: before the build, during it, and after it.
func TestCacheAway(t *testing.T) {
	for _, away := range []time.Duration{4 * time.Second, 30 * time.Second, 55 * time.Second, time.Minute} {
		t.Run(away.String(), func(t *testing.T) {
			t.Run("before", func(t *testing.T) {
				inEachKind(t, func(t *testing.T, f *fixture) {
					f.outage(away)
					if unpushed := f.run(f.store.chain(20)); unpushed != "" {
						t.Error(unpushed)
					}
					f.wantSurvived(away, 20)
				})
			})
			t.Run("during", func(t *testing.T) {
				inEachKind(t, func(t *testing.T, f *fixture) {
					j := f.watch()
					first := f.store.add("first")
					time.Sleep(2 * time.Second) // for the first to be pushed
					f.outage(away)
					second := f.store.add("second", first)
					time.Sleep(2 * time.Minute)
					f.wantPaths(2)
					f.store.add("third", second)
					if unpushed := j.finish(); unpushed != "" {
						t.Error(unpushed)
					}
					f.wantTotal(3, 0, 0)
					f.wantPaths(3)
					if f.lines("; trying again for up to 1m30s") != 1 || f.lines(": cache answers again, after ") != 1 {
						t.Errorf("log: %q", f.log)
					}
				})
			})
			t.Run("after", func(t *testing.T) {
				inEachKind(t, func(t *testing.T, f *fixture) {
					j := f.watch()
					last := f.store.chain(20)
					f.outage(away)
					if unpushed := j.finish(last); unpushed != "" {
						t.Error(unpushed)
					}
					f.wantSurvived(away, 20)
				})
			})
			t.Run("amid", func(t *testing.T) {
				inEachKind(t, func(t *testing.T, f *fixture) {
					f.cache.Misbehave(devcache.On("POST", completeCall, devcache.Times(1, func(http.Handler) http.Handler {
						return http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
							f.restart.Go(func() { f.outage(away) })
							panic(http.ErrAbortHandler)
						})
					})))
					if unpushed := f.run(f.store.chain(20)); unpushed != "" {
						t.Error(unpushed)
					}
					f.wantSurvived(away, 20)
				})
			})
		})
	}
}

func (f *fixture) wantSurvived(away time.Duration, n int) {
	f.t.Helper()
	f.wantTotal(n, 0, 0)
	f.wantPaths(n)
	f.took(away, away+10*time.Second)
	if f.lines("0: ") == 0 || f.lines("; trying again for up to 1m30s") != 1 || f.lines(": cache answers again, after ") != 1 {
		f.t.Errorf("log: %q", f.log)
	}
}

// If the cache remains down, the job ends 90 s after its build's end, whenever the outage began.
func TestAwayForGood(t *testing.T) {
	for _, before := range []time.Duration{0, time.Second, 50 * time.Second, time.Minute, 100 * time.Second, time.Hour} {
		t.Run(before.String(), func(t *testing.T) {
			inEachKind(t, func(t *testing.T, f *fixture) {
				j := f.watch()
				last := f.store.chain(3)
				f.kill()
				time.Sleep(before)
				f.begin(time.Now())
				unpushed := j.finish(last)
				f.took(90*time.Second, 90*time.Second)
				if !strings.Contains(unpushed, "could not be pushed: ") || !strings.Contains(unpushed, "the cache cannot be reached") {
					t.Errorf("unpushed: %q", unpushed)
				}
				f.wantLine("…: push: NOT COMPLETE: …")
				if n := f.lines("cannot push for now: "); n > 1 {
					t.Errorf("said %d times: %q", n, f.log)
				}
			})
		})
	}
}

// The cache is down for longer than calls are repeated, but is up again before the build ends: everything is
// uploaded, at the latest at the end.
func TestBackAfterLong(t *testing.T) {
	inEachKind(t, func(t *testing.T, f *fixture) {
		j := f.watch()
		f.store.chain(5)
		f.outage(10 * time.Minute)
		time.Sleep(20 * time.Minute)
		if unpushed := j.finish(); unpushed != "" {
			t.Error(unpushed)
		}
		f.wantTotal(5, 0, 0)
		f.wantPaths(5)
	})
}

// Aborts that the cache does not answer do not delay the end.
func TestAbortsDoNotDelay(t *testing.T) {
	inEachKind(t, func(t *testing.T, f *fixture) {
		f.cache.Misbehave(devcache.On("POST", completeCall, devcache.Answer(400, "no")), devcache.On("POST", "/api/v1/cache/*/multipart-nar/*/abort", devcache.Hang()))
		unpushed := f.run(f.store.add("a"), f.store.add("b"))
		if !strings.HasPrefix(unpushed, "2 of 2 paths could not be pushed: a: complete the upload of a to http://cache/default: the cache refuses it (HTTP 400): no; b: ") {
			t.Errorf("unpushed: %q", unpushed)
		}
		f.took(0, 0)
	})
}

// After three failed paths in a row, no more uploads are tried.
func TestThreeFailures(t *testing.T) {
	inEachKind(t, func(t *testing.T, f *fixture) {
		f.options.Uploads = 1
		begun := f.count("POST", beginCall, devcache.On("POST", completeCall, devcache.Answer(400, "no")))
		var results []string
		for i := range 10 {
			results = append(results, f.store.add(fmt.Sprint("path-", i)))
		}
		unpushed := f.run(results...)
		if !strings.HasPrefix(unpushed, "10 of 10 paths could not be pushed: path-") {
			t.Errorf("unpushed: %q", unpushed)
		}
		if begun.Load() != 3 || f.lines("could not push path-") != 3 || f.lines("the cache fails again and again: no more is pushed for now") != 1 {
			t.Errorf("%d uploads were begun, want 3; log: %q", begun.Load(), f.log)
		}
	})
}
