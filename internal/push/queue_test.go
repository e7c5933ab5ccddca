package push

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"iglu.sh/builder/internal/cachix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// graph makes n paths, each of which refers to itself and to some of those before it.
func graph(n int) []cachix.Path {
	paths := make([]cachix.Path, n)
	for i := range paths {
		paths[i] = cachix.Path{StorePath: fmt.Sprint("path-", i), NarSize: rand.Int64N(1000)}
		paths[i].References = []string{paths[i].StorePath, "one-that-the-cache-has"}
		for range min(i, 3) {
			paths[i].References = append(paths[i].References, paths[rand.IntN(i)].StorePath)
		}
	}
	return paths
}

// TestQueue adds graphs in parts, while they are sent, and some paths fail. All paths that do not depend on
// failed ones are sent, each once and after its references.
func TestQueue(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			paths := graph(1 + rand.IntN(60))
			bad := map[string]bool{}
			for _, p := range paths {
				bad[p.StorePath] = rand.IntN(20) == 0
			}
			var mu sync.Mutex
			times := map[string]int{}
			done := map[string]bool{}
			running := 0
			q := newQueue(4, func(p cachix.Path) error {
				mu.Lock()
				times[p.StorePath]++
				running++
				if running > 4 {
					t.Errorf("%d at once", running)
				}
				for _, r := range p.References {
					if _, ours := bad[r]; ours && r != p.StorePath && !done[r] {
						t.Errorf("%s is sent before %s", p.StorePath, r)
					}
				}
				mu.Unlock()
				time.Sleep(rand.N(10 * time.Millisecond))
				mu.Lock()
				defer mu.Unlock()
				running--
				done[p.StorePath] = !bad[p.StorePath]
				if bad[p.StorePath] {
					return errors.New("bad")
				}
				return nil
			})
			for chunk := range slices.Chunk(paths, 1+rand.IntN(len(paths))) {
				chunk = slices.Clone(chunk)
				rand.Shuffle(len(chunk), func(i, j int) { chunk[i], chunk[j] = chunk[j], chunk[i] })
				q.add(chunk)
				time.Sleep(rand.N(10 * time.Millisecond))
			}
			q.drain()
			lost := map[string]bool{} // what cannot be sent
			for _, p := range paths {
				for _, r := range p.References {
					lost[p.StorePath] = lost[p.StorePath] || lost[r]
				}
				wantTimes := 1
				if lost[p.StorePath] {
					wantTimes = 0
				}
				lost[p.StorePath] = lost[p.StorePath] || bad[p.StorePath]
				if times[p.StorePath] != wantTimes || done[p.StorePath] == lost[p.StorePath] {
					t.Errorf("%s was sent %d times, want %d; done: %v", p.StorePath, times[p.StorePath], wantTimes, done[p.StorePath])
				}
			}
			for _, e := range q.takeFailed() {
				if !lost[e.path.StorePath] || errors.Is(e.err, errReference) != (times[e.path.StorePath] == 0) {
					t.Errorf("%s failed with %v", e.path.StorePath, e.err)
				}
				delete(lost, e.path.StorePath)
			}
			for name, is := range lost {
				if is {
					t.Errorf("%s is not among what failed", name)
				}
			}
		})
	}
}

// TestQueueAgain removes the failed paths from the queue and adds them again.
func TestQueueAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failing := true
		var sent []string
		q := newQueue(1, func(p cachix.Path) error {
			if failing && p.StorePath == "a" {
				return errors.New("bad")
			}
			sent = append(sent, p.StorePath)
			return nil
		})
		a, b, c := cachix.Path{StorePath: "a"}, cachix.Path{StorePath: "b", References: []string{"a"}}, cachix.Path{StorePath: "c", References: []string{"b"}}
		q.add([]cachix.Path{a, b})
		synctest.Wait()
		q.add([]cachix.Path{c}) // refers to what has failed already
		synctest.Wait()
		failing = false
		if n := len(q.takeFailed()); n != 3 || len(sent) > 0 {
			t.Errorf("%d failed, %q were sent", n, sent)
		}
		q.add([]cachix.Path{a, b, c})
		q.drain()
		if !slices.Equal(sent, []string{"a", "b", "c"}) || len(q.takeFailed()) > 0 {
			t.Errorf("%q were sent", sent)
		}
	})
}
