package docker

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/test/kit/fakeengine"
)

// acquireNetworkLock acquires the lock for the network in a goroutine. It returns a channel that gets how long it took.
func (f *fixture) acquireNetworkLock(t *testing.T) (took chan time.Duration) {
	took = make(chan time.Duration, 1)
	go func() {
		begun := time.Now()
		unlock, err := f.lock("network", fakeengine.ImageRef).acquire(t.Context())
		if err != nil {
			t.Error(err)
		}
		took <- time.Since(begun)
		unlock()
	}()
	synctest.Wait()
	return took
}

// TestLockInTurn has a builder wait while others hold the lock one after the other, together for longer than a lock that
// one builder holds is kept. It breaks none of them.
func TestLockInTurn(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		f.fake.MakeContainer(networkLock, instanceLabel)
		took := f.acquireNetworkLock(t)
		time.Sleep(lockInterval / 2) // so that nothing happens at once
		for range 5 {
			time.Sleep(lockTimeout / 2)
			if left := f.left(); !strings.Contains(left, networkLock) {
				t.Fatalf("a builder has lost its lock: %s", left)
			}
			if err := f.Remove(t.Context(), networkLock); err != nil {
				t.Fatal(err)
			}
			f.fake.MakeContainer(networkLock, instanceLabel)
		}
		if err := f.Remove(t.Context(), networkLock); err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "wait", <-took, 5*lockTimeout/2+lockInterval)
	})
}

// TestLockWhileEngineHangs has a builder wait for a lock while the engine hangs for longer than a lock is kept. The builder
// that holds it could not release it, and gets the time to do so.
func TestLockWhileEngineHangs(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		f.fake.MakeContainer(networkLock, instanceLabel)
		took := f.acquireNetworkLock(t)
		time.Sleep(lockInterval / 2)
		f.fake.Hang()
		time.Sleep(3 * lockTimeout)
		f.fake.Return()
		time.Sleep(time.Second)
		if left := f.left(); !strings.Contains(left, networkLock) {
			t.Fatalf("the builder has lost its lock: %s", left)
		}
		if err := f.Remove(t.Context(), networkLock); err != nil {
			t.Fatal(err)
		}
		<-took
	})
}
