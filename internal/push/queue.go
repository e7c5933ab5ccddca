package push

import (
	"cmp"
	"errors"
	"slices"
	"sync"

	"iglu.sh/builder/internal/cachix"
)

// A queue sends paths, several at once, each after those that it refers to: a cache
// never announces a path of which it lacks a reference.
type queue struct {
	send    func(cachix.Path) error
	workers sync.WaitGroup

	mu      sync.Mutex
	changed *sync.Cond // something is ready, or all is done
	entries map[string]*entry
	ready   []*entry // may be sent now, in this order
	pending int      // entries that are neither sent nor failed
	closed  bool     // nothing more will be added
}

// An entry is a path in a queue.
type entry struct {
	path       cachix.Path
	state      state
	err        error    // why it failed
	waits      int      // how many references are still to be sent
	dependents []*entry // entries that wait for this one
}

type state int

const (
	pending state = iota
	sent
	failed
)

// errReference is why a path is not sent whose reference could not be.
var errReference = errors.New("a path that it refers to could not be pushed")

// newQueue returns a queue that calls send for as many paths at once as there are
// workers. It has to be drained.
func newQueue(workers int, send func(cachix.Path) error) *queue {
	q := &queue{send: send, entries: make(map[string]*entry)}
	q.changed = sync.NewCond(&q.mu)
	for range workers {
		q.workers.Go(q.work)
	}
	return q
}

// add takes paths that are not in the queue yet. References that are in no call of
// add, this one included, are the cache's already or of no concern to it.
func (q *queue) add(paths []cachix.Path) {
	// Large ones first: the last to end should not be one that began late.
	paths = slices.SortedFunc(slices.Values(paths), func(a, b cachix.Path) int { return cmp.Compare(b.NarSize, a.NarSize) })
	q.mu.Lock()
	defer q.mu.Unlock()
	added := make([]*entry, len(paths))
	for i, path := range paths {
		added[i] = &entry{path: path}
		q.entries[path.StorePath] = added[i]
	}
	q.pending += len(added)
	for _, e := range added {
		q.link(e)
	}
	q.changed.Broadcast()
}

// link has an entry wait for its references, or fail with them.
func (q *queue) link(e *entry) {
	lost := false
	for _, name := range e.path.References {
		reference := q.entries[name]
		switch {
		case reference == nil || reference == e || reference.state == sent:
		case reference.state == failed:
			lost = true
		default:
			e.waits++
			reference.dependents = append(reference.dependents, e)
		}
	}
	switch {
	case lost:
		q.fail(e, errReference)
	case e.waits == 0 && e.state == pending:
		q.ready = append(q.ready, e)
	}
}

// fail ends an entry that cannot be sent, and all that wait for it.
func (q *queue) fail(e *entry, err error) {
	if e.state != pending {
		return
	}
	e.state, e.err = failed, err
	q.pending--
	for _, dependent := range e.dependents {
		q.fail(dependent, errReference)
	}
}

func (q *queue) work() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		for len(q.ready) == 0 && !(q.closed && q.pending == 0) {
			q.changed.Wait()
		}
		if len(q.ready) == 0 {
			return
		}
		e := q.ready[0]
		q.ready = q.ready[1:]
		q.mu.Unlock()
		err := q.send(e.path)
		q.mu.Lock()
		q.done(e, err)
		q.changed.Broadcast()
	}
}

func (q *queue) done(e *entry, err error) {
	if err != nil {
		q.fail(e, err)
		return
	}
	e.state = sent
	q.pending--
	for _, dependent := range e.dependents {
		dependent.waits--
		if dependent.waits == 0 && dependent.state == pending {
			q.ready = append(q.ready, dependent)
		}
	}
}

// takeFailed removes what has failed from the queue, so that it can be added again,
// and returns it.
func (q *queue) takeFailed() []*entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	var taken []*entry
	for name, e := range q.entries {
		if e.state == failed {
			taken = append(taken, e)
			delete(q.entries, name)
		}
	}
	return taken
}

// drain waits until all is sent or has failed. Nothing may be added any more.
func (q *queue) drain() {
	q.mu.Lock()
	q.closed = true
	q.changed.Broadcast()
	q.mu.Unlock()
	q.workers.Wait()
}
