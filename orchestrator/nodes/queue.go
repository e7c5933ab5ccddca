package nodes

import (
	"context"
	"slices"
	"sync"
	"time"

	"iglu.sh/builder/internal/jobend"
)

// A Need is what a job needs.
type Need struct {
	// Platform is the one that its node must have; empty for any.
	Platform string
	// Home names what a node keeps for jobs of the same name and platform, such as the repository whose
	// Nix store it has; empty for nothing.
	Home string
}

// HomeTimeout is how long a job waits for a slot of the node that is its home, while others have some. A
// job with an empty store takes longer by more than that, as a rule.
const HomeTimeout = 15 * time.Second

// A Queue gives jobs slots. The first that came is the first that is given one that suits it. Its
// methods are safe for concurrent use.
type Queue struct {
	mu      sync.Mutex
	nodes   []*Node
	homes   map[Need]*Node
	waiting []*Ticket // in the order in which they came
	running int
	joined  int // jobs so far
	room    int // for jobs that wait
	inside  int // who is admitted
	closed  bool
}

// NewQueue returns a queue without nodes, in which so many jobs can wait.
func NewQueue(room int) *Queue { return &Queue{room: room, homes: make(map[Need]*Node)} }

// Admit lets a job in, or a client that may send one. ok is false if there are as many as the nodes have
// slots and the queue has room for. leave makes room for another, and may be called again. Jobs on nodes
// that are down have slots, too.
func (q *Queue) Admit() (leave func(), ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	places := q.slots() + q.room
	for _, n := range q.nodes {
		if !n.up {
			places += n.taken
		}
	}
	if q.inside >= places {
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

// Up has a node take jobs, which is new or was down. It is the home of what homes names, unless a node
// is that already.
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

// Down has a node take no jobs any more, until it is up again. Those that it has keep their slots.
func (q *Queue) Down(n *Node) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n.up = false
	q.pass() // a job whose home it is need not wait for it
}

// A Ticket is a job's place in the queue, and then its slot.
type Ticket struct {
	queue  *Queue
	need   Need
	number int           // of the job, in the order in which they came
	from   time.Time     // when it may have a slot
	until  time.Time     // when it no longer waits for its home; zero until it does
	timer  *time.Timer   // one of both; nil until it waits for a time
	moved  chan struct{} // holds an item when the job has moved up since it last looked
	node   *Node         // whose slot it has; nil: it waits
	lost   *Node         // whose slot it had before
	left   bool
}

// Join gives a job a slot, or a place at the end of the queue. Leave must be called.
func (q *Queue) Join(need Need) *Ticket {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.joined++
	t := &Ticket{queue: q, need: need, number: q.joined, moved: make(chan struct{}, 1)}
	q.waiting = append(q.waiting, t)
	q.pass()
	return t
}

// Again takes the slot back that the job has, and has it wait for another after a time, before all jobs
// that came later. It gets none of the same node while another that suits it is up.
func (t *Ticket) Again(after time.Duration) {
	q := t.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	t.node.taken--
	q.running--
	t.node, t.lost = nil, t.node
	t.from, t.until = time.Now().Add(after), time.Time{}
	t.passIn(after)
	at, _ := slices.BinarySearchFunc(q.waiting, t, func(a, b *Ticket) int { return a.number - b.number })
	q.waiting = slices.Insert(q.waiting, at, t)
	q.pass()
}

// pass gives free slots to the jobs that wait, the first one first, and tells those that still wait that
// they may have moved up. Its caller holds mu.
func (q *Queue) pass() {
	for !q.closed && q.give() {
		// Where one job went is the home of another that was asked before it.
	}
	for _, t := range q.waiting {
		t.tell()
	}
}

// give asks each job that waits once whether it takes a slot that is free, and reports whether one has.
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

// nodeFor returns the node that is to run a job now, or nil. There is a free slot that would suit it.
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

// suits reports whether a job may have a slot of a node: not of one that was lost under it while there is
// another.
func (q *Queue) suits(t *Ticket, n *Node) bool {
	return t.need.suits(n) && (n != t.lost || !slices.ContainsFunc(q.nodes, func(other *Node) bool {
		return other != n && other.up && t.need.suits(other)
	}))
}

// waitsForHome reports whether the job still waits for a slot of its home, though others are free. From
// the first call on, that lasts for a time.
func (t *Ticket) waitsForHome() bool {
	if t.until.IsZero() {
		t.until = time.Now().Add(HomeTimeout)
		t.passIn(HomeTimeout)
	}
	return time.Now().Before(t.until)
}

// passIn has the queue give out slots again after a time.
func (t *Ticket) passIn(after time.Duration) {
	t.timer = time.AfterFunc(after, func() {
		t.queue.mu.Lock()
		defer t.queue.mu.Unlock()
		t.queue.pass()
	})
}

// take has a job take a slot.
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

// maxHomes bounds of how much it is known where its home is. What is forgotten is where a job finds it,
// or a node tells it when it comes up.
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

// tell has the job look where it stands.
func (t *Ticket) tell() {
	select {
	case t.moved <- struct{}{}:
	default: // it has not looked yet
	}
}

// Wait returns the node whose slot the job has, or why it gets none: the cause of ctx's end, or
// jobend.Shutdown. Meanwhile it calls ahead with the number of jobs that wait before this one, first
// and whenever that changes.
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

// look returns where the job stands: whose slot it has, or how many wait before it, and whether nobody
// gets a slot any more.
func (t *Ticket) look() (node *Node, ahead int, closed bool) {
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	return t.node, slices.Index(t.queue.waiting, t), t.queue.closed
}

// Node returns the node whose slot the job has, or nil while it waits.
func (t *Ticket) Node() *Node {
	node, _, _ := t.look()
	return node
}

// Leave gives the job's slot to others, or its place in the queue up. It may be called again.
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

// Close ends the waiting of all that wait, now and later.
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
