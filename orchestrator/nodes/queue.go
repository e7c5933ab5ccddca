package nodes

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"iglu.sh/builder/internal/jobend"
)

// A Need is what a job needs.
type Need struct {
	// Platform is the platform that the job's node must have. Empty means any.
	Platform string
	// Home identifies the data that a node keeps for jobs with the same Need, such as the repository
	// whose Nix store it has. The last node that ran such a job is the home of the next. Empty means that
	// the job has no home.
	Home string
}

// HomeTimeout is how long a job waits for a slot of its home, while other nodes have free slots. A job with an
// empty store usually takes longer than one with a filled store by more than that.
const HomeTimeout = 15 * time.Second

// A Queue gives slots to jobs, in the order of their arrival: a free slot is given to the first job that it
// suits. Its methods are safe for concurrent use.
type Queue struct {
	mu         sync.Mutex
	nodes      []*Node
	homes      map[Need]*Node
	waiting    []*Ticket // in the order of their arrival
	running    int
	joined     int // how many jobs have joined so far
	maxWaiting int // how many jobs can wait
	inside     int // how many jobs and clients are admitted
	closed     bool
}

// NewQueue returns a queue without nodes, in which at most maxWaiting jobs wait.
func NewQueue(maxWaiting int) *Queue {
	return &Queue{maxWaiting: maxWaiting, homes: make(map[Need]*Node)}
}

// Admit admits a job, or a client that may send one. ok is false if all slots are taken and the queue is full.
// The slots of jobs on nodes that are down count, too. leave makes room for another job. Calling it again has
// no effect.
func (q *Queue) Admit() (leave func(), ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	limit := q.slots() + q.maxWaiting
	for _, n := range q.nodes {
		if !n.up {
			limit += n.taken
		}
	}
	if q.inside >= limit {
		return nil, false
	}
	q.inside++
	return sync.OnceFunc(func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.inside--
	}), true
}

// Slots returns how many jobs the nodes that are up run at once.
func (q *Queue) Slots() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.slots()
}

func (q *Queue) slots() (all int) {
	for _, n := range q.nodes {
		if n.up {
			all += n.Slots
		}
	}
	return all
}

// Up gives jobs to a node from now on, which is new or was down. The node becomes the home of the given homes
// that have no node yet.
func (q *Queue) Up(n *Node, homes ...string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !slices.Contains(q.nodes, n) {
		q.nodes = append(q.nodes, n)
	}
	n.up = true
	for _, home := range homes {
		for _, need := range []Need{{Home: home}, {Platform: n.Platform, Home: home}} {
			if q.homes[need] == nil {
				q.setHome(need, n)
			}
		}
	}
	q.pass()
}

// Down gives no more jobs to a node, until Up is called again. Its running jobs keep their slots.
func (q *Queue) Down(n *Node) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n.up = false
	q.pass() // jobs whose home it is no longer wait for it
}

// Remove removes a node that is down, and reports whether it did: it does not while a job has a slot of the node.
func (q *Queue) Remove(n *Node) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n.up || n.taken > 0 {
		return false
	}
	q.nodes = slices.DeleteFunc(q.nodes, func(other *Node) bool { return other == n })
	maps.DeleteFunc(q.homes, func(_ Need, home *Node) bool { return home == n })
	return true
}

// Instead lets jobs that wait for a platform which is none of the known ones wait for another.
func (q *Queue) Instead(known map[string]bool, platform string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	changed := false
	for _, t := range q.waiting {
		if p := t.need.Platform; p != "" && p != platform && !known[p] {
			t.need.Platform, changed = platform, true
		}
	}
	if changed {
		q.pass()
	}
}

// A Ticket is a job's place in the queue, and then its slot.
type Ticket struct {
	queue  *Queue
	need   Need
	number int           // the job's number, in the order of arrival
	from   time.Time     // it gets no slot before this time
	until  time.Time     // it waits for its home until this time; zero if it does not wait for it yet
	timer  *time.Timer   // fires at from or until; nil until one of them is set
	ahead  int           // how many jobs wait before it, while it waits
	moved  chan struct{} // holds an item if that may have changed, or it has a slot, since it last looked
	node   *Node         // whose slot it has; nil while it waits
	lost   []*Node       // the nodes that it has had before, on which it could not run to its end
	left   bool
}

// Join gives a job a slot, or a place at the end of the queue. The caller must call Leave.
func (q *Queue) Join(need Need) *Ticket {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.joined++
	t := &Ticket{queue: q, need: need, number: q.joined, moved: make(chan struct{}, 1)}
	q.waiting = append(q.waiting, t)
	q.pass()
	return t
}

// Again takes back the job's slot. The job gets another one after the given time at the earliest, in the order of
// its first arrival. It gets no slot of a node that it has had while another suitable node is up, and none of the last one
// while any other is.
func (t *Ticket) Again(after time.Duration) {
	q := t.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	t.node.taken--
	q.running--
	t.node, t.lost = nil, append(t.lost, t.node)
	t.from, t.until = time.Now().Add(after), time.Time{}
	t.passIn(after)
	at, _ := slices.BinarySearchFunc(q.waiting, t, func(a, b *Ticket) int { return a.number - b.number })
	q.waiting = slices.Insert(q.waiting, at, t)
	q.pass()
}

// HasOther reports whether a suitable node is up that the job has not had yet.
func (t *Ticket) HasOther() bool {
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	return t.queue.hasOther(t.need, append(slices.Clone(t.lost), t.node))
}

// pass gives free slots to the waiting jobs, in their order, and notifies those that still wait of a change of their
// place, or of the queue's end. Its caller holds mu.
func (q *Queue) pass() {
	for !q.closed && q.give() {
		// A job that got a slot may have changed the home of one before it, so all are tried again.
	}
	for ahead, t := range q.waiting {
		if t.ahead != ahead || q.closed {
			t.ahead = ahead
			t.tell()
		}
	}
}

// give tries once to find a free slot for each waiting job, and reports whether a job got one.
func (q *Queue) give() (given bool) {
	free := make(map[string]int) // slots, by platform
	for _, n := range q.nodes {
		free[n.Platform] += n.free()
		if n.Platform != "" {
			free[""] += n.free()
		}
	}
	q.waiting = slices.DeleteFunc(q.waiting, func(t *Ticket) bool {
		if free[t.need.Platform] == 0 {
			return false
		}
		n := q.nodeFor(t)
		if n == nil {
			return false
		}
		free[n.Platform]--
		if n.Platform != "" {
			free[""]--
		}
		q.take(t, n)
		given = true
		return true
	})
	return given
}

// nodeFor returns the node that is to run a job now, or nil if the job must wait. The caller has checked that a
// node of its platform has a free slot.
func (q *Queue) nodeFor(t *Ticket) *Node {
	if time.Now().Before(t.from) {
		return nil
	}
	home := q.homes[t.need]
	if home != nil && t.need.Home != "" && home.up && q.suits(t, home) {
		if home.free() > 0 {
			return home
		}
		if t.waitsForHome() {
			return nil
		}
	}
	var best *Node
	for _, n := range q.nodes {
		if n.free() > 0 && q.suits(t, n) && (best == nil || n.free() > best.free()) {
			best = n
		}
	}
	return best
}

func (need Need) suits(n *Node) bool { return need.Platform == "" || need.Platform == n.Platform }

// suits reports whether a job may have a slot of a node.
func (q *Queue) suits(t *Ticket, n *Node) bool {
	return t.need.suits(n) && !slices.Contains(q.avoided(t), n)
}

// avoided returns the nodes of which a job gets no slot: those that it has had before. As long as no other suitable node is
// up, it leaves out the first of them.
func (q *Queue) avoided(t *Ticket) []*Node {
	avoided := t.lost
	for len(avoided) > 0 && !q.hasOther(t.need, avoided) {
		avoided = avoided[1:]
	}
	return avoided
}

// hasOther reports whether a suitable node is up that is none of the given ones.
func (q *Queue) hasOther(need Need, than []*Node) bool {
	return slices.ContainsFunc(q.nodes, func(n *Node) bool { return n.up && need.suits(n) && !slices.Contains(than, n) })
}

// waitsForHome reports whether the job still waits for a slot of its home, although other slots are free. It
// waits for HomeTimeout from the first call on.
func (t *Ticket) waitsForHome() bool {
	if t.until.IsZero() {
		t.until = time.Now().Add(HomeTimeout)
		t.passIn(HomeTimeout)
	}
	return time.Now().Before(t.until)
}

// passIn calls pass after a time.
func (t *Ticket) passIn(after time.Duration) {
	t.timer = time.AfterFunc(after, func() {
		t.queue.mu.Lock()
		defer t.queue.mu.Unlock()
		t.queue.pass()
	})
}

// take gives a slot of a node to a job.
func (q *Queue) take(t *Ticket, n *Node) {
	n.taken++
	q.running++
	t.node = n
	if t.timer != nil {
		t.timer.Stop()
	}
	if t.need.Home != "" {
		q.setHome(t.need, n)
	}
	t.tell()
}

// maxHomes bounds how many homes are remembered. A forgotten home is known again when such a job gets a slot, or
// when a node with its data is up again.
const maxHomes = 10_000

func (q *Queue) setHome(of Need, n *Node) {
	if _, known := q.homes[of]; !known && len(q.homes) >= maxHomes {
		for other := range q.homes {
			delete(q.homes, other)
			break
		}
	}
	q.homes[of] = n
}

// tell notifies the job's Wait that something has changed for the job.
func (t *Ticket) tell() {
	select {
	case t.moved <- struct{}{}:
	default: // it is notified already
	}
}

// Wait waits for a slot, and returns its node. The error is the cause of ctx's end, or jobend.Shutdown if the
// queue was closed. While it waits, it calls ahead with the number of jobs before this one, at the start and
// whenever the number changes.
func (t *Ticket) Wait(ctx context.Context, ahead func(jobs int)) (*Node, error) {
	for last := -1; ; {
		node, jobs, closed := t.look()
		switch {
		case node != nil:
			return node, nil
		case closed:
			return nil, jobend.Shutdown
		case jobs != last:
			ahead(jobs)
			last = jobs
		}
		select {
		case <-t.moved:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// look returns the node whose slot the job has, or how many jobs wait before it, and whether the queue is
// closed.
func (t *Ticket) look() (node *Node, ahead int, closed bool) {
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	return t.node, t.ahead, t.queue.closed
}

// Node returns the node whose slot the job has, or nil while it waits.
func (t *Ticket) Node() *Node {
	node, _, _ := t.look()
	return node
}

// Leave gives up the job's slot, or its place in the queue. Calling it again has no effect.
func (t *Ticket) Leave() {
	q := t.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.left {
		return
	}
	t.left = true
	if t.node != nil {
		t.node.taken--
		q.running--
	} else if i := slices.Index(q.waiting, t); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	if t.timer != nil {
		t.timer.Stop()
	}
	q.pass()
}

// Close ends the Wait of all jobs without a slot, including those that join later.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.pass()
}

// Load returns how many jobs have a slot, and how many wait for one.
func (q *Queue) Load() (running, waiting int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running, len(q.waiting)
}
