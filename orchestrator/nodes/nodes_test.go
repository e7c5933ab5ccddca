package nodes

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const amd64, arm64 = "linux/amd64", "linux/arm64"

// A fixture is a queue with its nodes.
type fixture struct {
	*Queue
	t     *testing.T
	nodes []*Node
}

func newFixture(t *testing.T, platforms ...string) *fixture {
	w := &fixture{Queue: NewQueue(0), t: t}
	for _, platform := range platforms {
		n := &Node{Platform: platform, Slots: 2}
		w.nodes = append(w.nodes, n)
		w.Up(n)
	}
	return w
}

// where returns the index of each job's node, or - for a job without a slot.
func (w *fixture) where(tickets ...*Ticket) string {
	var places []string
	for _, t := range tickets {
		place := "-"
		if n := t.Node(); n != nil {
			place = fmt.Sprint(slices.Index(w.nodes, n))
		}
		places = append(places, place)
	}
	return strings.Join(places, " ")
}

func (w *fixture) want(want string, tickets ...*Ticket) {
	w.t.Helper()
	if got := w.where(tickets...); got != want {
		w.t.Errorf("the jobs are on %s, want %s", got, want)
	}
}

// TestSpread checks that jobs without a home run on the node with the most free slots.
func TestSpread(t *testing.T) {
	w := newFixture(t, "", "", "")
	var all []*Ticket
	for range 8 {
		all = append(all, w.Join(Need{}))
	}
	w.want("0 1 2 0 1 2 - -", all...)
	all[4].Leave()
	w.want("1 -", all[6:]...)
}

// TestPlatform checks that jobs run on nodes of the platform that they ask for. A job that waits for its platform
// does not delay later jobs for other platforms.
func TestPlatform(t *testing.T) {
	w := newFixture(t, amd64, arm64)
	a, b, c := w.Join(Need{Platform: arm64}), w.Join(Need{Platform: arm64}), w.Join(Need{Platform: arm64})
	d, e, f := w.Join(Need{}), w.Join(Need{Platform: amd64}), w.Join(Need{})
	w.want("1 1 - 0 0 -", a, b, c, d, e, f)
	a.Leave()
	w.want("1 -", c, f)
	b.Leave()
	w.want("1", f)
}

// TestRemove removes nodes. A job that waits for the platform of the last one gets a slot of another platform instead.
func TestRemove(t *testing.T) {
	w := newFixture(t, amd64, arm64, arm64)
	need := Need{Platform: arm64}
	a, b, c, d := w.Join(Need{Platform: arm64, Home: "a"}), w.Join(need), w.Join(need), w.Join(need)
	e := w.Join(Need{Platform: arm64, Home: "b"})
	w.want("1 2 1 2 -", a, b, c, d, e)
	remove := func(when string, n int, want bool) {
		t.Helper()
		if got := w.Remove(w.nodes[n]); got != want {
			t.Errorf("%s, node %d is removed: %t", when, n, got)
		}
	}
	known := map[string]bool{arm64: true}
	remove("while it is up", 1, false)
	w.Down(w.nodes[1])
	remove("while it has jobs", 1, false)
	a.Leave()
	w.want("-", e)
	c.Leave()
	remove("while it is down", 1, true)
	w.Down(w.nodes[2])
	w.Instead(known, amd64)
	w.want("-", e) // it waits for the other node of its platform
	b.Leave()
	d.Leave()
	remove("while it is down", 2, true)
	w.want("-", e)
	w.Instead(nil, amd64)
	w.want("0", e)
	f := w.Join(Need{Platform: amd64})
	w.Instead(nil, amd64) // it changes nothing for jobs of that platform, or of any
	w.want("0", f)
	if len(w.Queue.nodes) != 1 || len(w.homes) != 1 {
		t.Errorf("the queue knows %d nodes and %d homes", len(w.Queue.nodes), len(w.homes))
	}
}

// TestRemoveKeepsHomes removes a node that is a home. The others stay the homes that they are.
func TestRemoveKeepsHomes(t *testing.T) {
	w := newFixture(t, "", "", "")
	a, b := w.Join(Need{Home: "a"}), w.Join(Need{Home: "b"})
	w.want("0 1", a, b)
	a.Leave()
	b.Leave()
	w.Down(w.nodes[1])
	if !w.Remove(w.nodes[1]) {
		t.Error("the node is not removed")
	}
	filler := w.Join(Need{})
	a, b = w.Join(Need{Home: "a"}), w.Join(Need{Home: "b"}) // node 2 has more free slots than the home of a
	w.want("0 0 2", filler, a, b)
}

// TestInsteadOfAny has a job wait that may run on any platform. It may still do so when there is no node of the builder's own.
func TestInsteadOfAny(t *testing.T) {
	w := newFixture(t, arm64)
	a, b, c := w.Join(Need{}), w.Join(Need{}), w.Join(Need{})
	w.want("0 0 -", a, b, c)
	w.Instead(nil, amd64)
	a.Leave()
	w.want("0", c)
}

// TestManyHomes has more homes than are remembered.
func TestManyHomes(t *testing.T) {
	w := newFixture(t, "")
	for i := range maxHomes + 10 {
		w.setHome(Need{Home: fmt.Sprint(i)}, w.nodes[0])
	}
	if n := len(w.homes); n != maxHomes || w.homes[Need{Home: fmt.Sprint(maxHomes + 9)}] == nil {
		t.Errorf("%d homes are remembered, or the last is not", n)
	}
}

// TestHome checks that the jobs of a repository run on the node of its first job. They wait for it for a while, and
// then run on another node, which is their home from then on.
func TestHome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFixture(t, "", "", "")
		filler := w.Join(Need{})
		first := w.Join(Need{Home: "a"})
		w.want("0 1", filler, first)
		filler.Leave()
		second, third := w.Join(Need{Home: "a"}), w.Join(Need{Home: "a"})
		other := w.Join(Need{Home: "b"})
		w.want("1 - 0", second, third, other) // it does not delay later jobs
		time.Sleep(HomeTimeout - time.Second)
		w.want("-", third)
		time.Sleep(time.Second)
		synctest.Wait()
		w.want("2", third)
		fourth := w.Join(Need{Home: "a"})
		w.want("2", fourth)

		fifth := w.Join(Need{Home: "a"})
		w.want("-", fifth)
		third.Leave()
		w.want("2", fifth)
		sixth := w.Join(Need{Home: "a"})
		w.Down(w.nodes[2]) // there is nothing to wait for
		w.want("0", sixth)
	})
}

// TestHomesOfNode adds nodes that already are homes.
func TestHomesOfNode(t *testing.T) {
	w := newFixture(t, "", "")
	n := &Node{Slots: 1}
	w.nodes = append(w.nodes, n)
	w.Up(n, "a", "b")
	w.Up(w.nodes[0], "a") // has it too, but is not its home
	a, c := w.Join(Need{Home: "a"}), w.Join(Need{Home: "c"})
	w.want("2 0", a, c)
	a.Leave()
	w.Down(n)
	b := w.Join(Need{Home: "b"})
	w.want("1", b)
}

// TestDown takes a node down and up again while a job has a slot of it.
func TestDown(t *testing.T) {
	w := newFixture(t, "")
	a, b := w.Join(Need{}), w.Join(Need{})
	w.Down(w.nodes[0])
	c := w.Join(Need{})
	a.Leave()
	w.want("0 -", b, c)
	w.Up(w.nodes[0])
	w.want("0 0", b, c)
	if d := w.Join(Need{}); d.Node() != nil {
		t.Error("a node that came back has more slots than it had")
	}
}

// TestAgain checks a job that waits for another slot because its node was lost. At first it waits for a time, and
// delays no other job. Then it gets a slot before all later jobs, and not on the lost node while there is another.
func TestAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFixture(t, amd64, amd64, arm64)
		lost := w.Join(Need{Platform: amd64, Home: "a"})
		b, c, d := w.Join(Need{Platform: amd64}), w.Join(Need{Platform: amd64}), w.Join(Need{Platform: amd64})
		later := w.Join(Need{Platform: amd64})
		w.want("0 1 0 1 -", lost, b, c, d, later)
		lost.Again(time.Minute)
		w.want("- 0", lost, later)
		latest := w.Join(Need{Platform: amd64})
		time.Sleep(time.Minute - time.Second)
		b.Leave()
		w.want("- 1", lost, latest)
		time.Sleep(2 * time.Second)
		c.Leave() // which is on the node that was lost
		w.want("-", lost)
		last := w.Join(Need{Platform: amd64})
		d.Leave()
		w.want("1 0", lost, last)
		if running, waiting := w.Load(); running != 4 || waiting != 0 {
			t.Errorf("%d run and %d wait", running, waiting)
		}

		w.Down(w.nodes[0])
		lost.Again(0) // there is no other of its platform
		w.want("1", lost)
	})
}

// TestAgainInOrder has a job wait again that has arrived between two that wait.
func TestAgainInOrder(t *testing.T) {
	w := newFixture(t, amd64, arm64)
	first, second := w.Join(Need{Platform: amd64}), w.Join(Need{Platform: amd64})
	before, job, after := w.Join(Need{Platform: amd64}), w.Join(Need{Platform: arm64}), w.Join(Need{Platform: amd64})
	w.want("0 0 - 1 -", first, second, before, job, after)
	job.Again(time.Hour)
	for want, ticket := range []*Ticket{before, job, after} {
		if _, ahead, _ := ticket.look(); ahead != want {
			t.Errorf("%d jobs are ahead, want %d", ahead, want)
		}
	}
	job.Leave()
}

// TestNodesBefore checks where a job gets its next slots: on nodes that it has not had, then on the one that it had first.
func TestNodesBefore(t *testing.T) {
	w := newFixture(t, amd64, amd64, amd64, arm64)
	job := w.Join(Need{Platform: amd64})
	next := func(hasOther bool, want string) {
		t.Helper()
		if got := job.HasOther(); got != hasOther {
			t.Errorf("on node %s, there is another: %t", w.where(job), got)
		}
		job.Again(0)
		w.want(want, job)
	}
	w.want("0", job)
	next(true, "1")
	next(true, "2")
	next(false, "0")
	w.Down(w.nodes[1])
	next(false, "2")
	w.Down(w.nodes[0])
	next(false, "2") // there is no other
	w.Up(w.nodes[0])
	w.Up(w.nodes[1])
	next(false, "1")
}

// TestFree checks how many more jobs a node accepts.
func TestFree(t *testing.T) {
	for state, want := range map[State]int{
		{Up: true, Slots: 3, Running: 1}:                 2,
		{Up: true, Slots: 3, Running: 3}:                 0,
		{Up: true, Slots: 3, Running: 1, Draining: true}: 0,
		{Slots: 3, Running: 1}:                           0,
	} {
		if got := state.Free(); got != want {
			t.Errorf("%+v: %d, want %d", state, got, want)
		}
	}
}

// TestNoNode checks that a job waits until there is a node.
func TestNoNode(t *testing.T) {
	w := newFixture(t)
	a := w.Join(Need{Home: "a"})
	w.want("-", a)
	w.nodes = []*Node{{Slots: 1}}
	w.Up(w.nodes[0])
	w.want("0", a)
}

// TestManyNodes sends 2,000 jobs an hour for simulatedTime to 200 nodes, which are down at random. Every other hour
// there are more jobs than the nodes can run. Some jobs are lost, and wait again. No job waits while it could have a
// free slot, gets a slot of a node that is down, or loses a slot that suits it to a later job.
func TestManyNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(7, 0))
		platforms := make([]string, 200)
		for i := range platforms {
			platforms[i] = []string{amd64, amd64, arm64}[i%3]
		}
		w := newFixture(t, platforms...)
		var jobs, pending []*Ticket
		checked := time.Now()
		for begun := time.Now(); time.Since(begun) < simulatedTime; {
			time.Sleep(time.Duration(r.ExpFloat64() * float64(time.Hour) / 2000))
			if r.IntN(20) == 0 {
				n := w.nodes[r.IntN(len(w.nodes))]
				w.Down(n)
				time.AfterFunc(time.Duration(r.IntN(600))*time.Second, func() { w.Up(n) })
			}
			need := Need{Home: []string{"", fmt.Sprint(r.IntN(500))}[r.IntN(2)], Platform: []string{"", amd64, arm64}[r.IntN(3)]}
			most := 600 // seconds; every other hour there is more to do than slots for it
			if time.Since(begun).Truncate(time.Hour)%(2*time.Hour) > 0 {
				most = 1500
			}
			ticket, takes, isLost := w.Join(need), time.Duration(r.IntN(most))*time.Second, r.IntN(20) == 0
			jobs, pending = append(jobs, ticket), append(pending, ticket)
			go func() {
				defer ticket.Leave()
				first, err := ticket.Wait(t.Context(), func(int) {})
				if t.Context().Err() != nil {
					return // the test has failed
				}
				if err != nil || !need.suits(first) {
					t.Errorf("job %+v: %+v, %v", need, first, err)
				}
				time.Sleep(takes)
				if isLost {
					ticket.Again(time.Minute)
					lost := time.Now()
					n, err := ticket.Wait(t.Context(), func(int) {})
					if t.Context().Err() == nil && (err != nil || !need.suits(n) || n == first || time.Since(lost) < time.Minute) {
						t.Errorf("lost job %+v: after %s, %+v, %v", need, time.Since(lost), n, err)
					}
				}
			}()
			synctest.Wait()
			pending = w.checkOrder(pending, checked)
			checked = time.Now()
			if len(jobs)%100 == 0 {
				w.check()
			}
		}
		time.Sleep(2 * time.Hour)
		for i, job := range jobs {
			if job.Node() == nil {
				t.Fatalf("job %d has had no slot", i)
			}
		}
		if running, waiting := w.Load(); running+waiting > 0 {
			t.Errorf("at the end %d jobs run and %d wait", running, waiting)
		}
		t.Logf("%d jobs", len(jobs))
	})
}

// check checks the nodes and all jobs while nothing changes.
func (w *fixture) check() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.nodes {
		if n.taken < 0 || n.taken > n.Slots {
			w.t.Fatalf("%d of %d slots of a node are taken", n.taken, n.Slots)
		}
	}
	for _, t := range w.waiting {
		if time.Now().Before(t.from) {
			continue
		}
		home := w.homes[t.need]
		if t.need.Home != "" && home != nil && home.up && t.need.suits(home) && home.free() <= 0 && time.Now().Before(t.until) {
			continue // it waits for its home
		}
		for _, n := range w.nodes {
			if n.free() > 0 && w.suits(t, n) {
				w.t.Fatalf("a job that needs %+v waits, and a node has %d free slots", t.need, n.free())
			}
		}
	}
}

// checkOrder checks that no job got its first slot before an earlier job that still waits and could have had it. It
// returns the jobs that still wait.
func (w *fixture) checkOrder(jobs []*Ticket, since time.Time) (waiting []*Ticket) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range jobs {
		if t.node == nil && t.lost == nil {
			waiting = append(waiting, t)
			continue
		}
		for _, earlier := range waiting {
			waitsForHome := earlier.need.Home != "" && (earlier.until.IsZero() || earlier.until.After(since))
			if t.node != nil && earlier.need.suits(t.node) && !waitsForHome {
				w.t.Fatalf("job %d, %+v, was overtaken by job %d, %+v", earlier.number, earlier.need, t.number, t.need)
			}
		}
	}
	return waiting
}

// BenchmarkPlace gives a job a slot, and takes it back, among so many nodes of which half are full.
func BenchmarkPlace(b *testing.B) {
	for _, many := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(many, "-nodes"), func(b *testing.B) {
			q := NewQueue(0)
			for range many {
				q.Up(&Node{Slots: 2})
			}
			for range many {
				q.Join(Need{})
			}
			for b.Loop() {
				t := q.Join(Need{Home: "a"})
				t.Wait(context.Background(), func(int) {})
				t.Leave()
			}
		})
	}
}
