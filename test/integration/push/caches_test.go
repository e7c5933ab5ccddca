//go:build integration

package push

import (
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/devcache"
	"iglu.sh/builder/test/kit/fixture"
)

// eachCache runs a test with each kind of cache: the strict one, and those that behave as Iglu Cache does.
func eachCache(t *testing.T, test func(t *testing.T, kind devcache.Kind)) {
	for _, kind := range devcache.Kinds() {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			test(t, kind)
		})
	}
}

// TestPushToEachCache pushes twice to each kind of cache. The second time, nothing is uploaded.
func TestPushToEachCache(t *testing.T) {
	t.Parallel()
	s := fixture.ServerWith(t, func(s *server.Settings) { s.MaxJobs = len(devcache.Kinds()) })
	eachCache(t, func(t *testing.T, kind devcache.Kind) {
		c := fixture.NewMortalCache(t, kind)
		first := fixture.Do(t, s, c.Pushing(fixture.SmallJob()))
		fixture.WantExit(t, first, 0)
		fixture.WantTotal(t, first, 2, 0, 0)
		fixture.WantNames(t, c.BinaryCache, fixture.BothNames)
		c.Sent.Store(0)
		second := fixture.Do(t, s, c.Pushing(fixture.SmallJob()))
		fixture.WantExit(t, second, 0)
		fixture.WantTotal(t, second, 0, 2, 0)
		if n := c.Sent.Load(); n != 0 {
			t.Errorf("%d bytes were uploaded again", n)
		}
	})
}
