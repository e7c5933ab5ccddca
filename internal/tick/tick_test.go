package tick

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestEvery counts calls, and sees that none comes after the stop, which waits for the last.
func TestEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls, within := 0, false
		stop := Every(time.Second, func() {
			within = true
			time.Sleep(500 * time.Millisecond)
			calls++
			within = false
		})
		time.Sleep(3200 * time.Millisecond)
		stop()
		if calls != 3 || within {
			t.Errorf("%d calls, the last still under way: %t", calls, within)
		}
		time.Sleep(10 * time.Second)
		if calls != 3 {
			t.Errorf("%d calls after the stop", calls)
		}
	})
}
