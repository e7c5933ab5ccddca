package push

import (
	"cmp"
	"errors"
	"slices"
	"sync"

	"iglu.sh/builder/internal/cachix"
)

// A queue sends several paths at the same time, each after its references. So the cache never announces a
// path without its references.
type queue struct {
	send    func(cachix.Path) error
	workers sync.WaitGroup

	mu      sync.Mutex
	changed *sync.Cond // signals that an entry is ready, or that all are done
	entries map[string]*entry
	ready   []*entry // may be sent now, in this order
	pending int      // how many entries are neither sent nor failed
	closed  bool     // no more entries will be added
}

// An entry is a path in a queue.
type entry struct {
	path       cachix.Path
	state      state
	err        error    // why it failed
	waits      int      // how many references are not sent yet
	dependents []*entry // entries that wait for this one
}

type state int

const (
	pending state = iota
	sent
	failed
)

// errReference is the error of a path with a reference that could not be pushed.
var errReference = errors.New("a path that it refers to could not be pushed")

// newQueue returns a queue that calls send from as many goroutines as workers. drain must be called.
func newQueue(workers int, send func(cachix.Path) error) *queue {
	q := &queue{send: send, entries: make(map[string]*entry)}
	q.changed = sync.NewCond(&q.mu)
	for range workers {
		q.workers.Go(q.work)
	}
	return q
}

// add adds paths that are not in the queue yet. References that are neither in the queue nor among these
// paths are ignored: the cache has them already, or they are not to be pushed.
func (q *queue) add(paths []cachix.Path) {
	// Large paths first: otherwise a large path that begins late can make the whole push longer.
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

// link makes an entry wait for its references. If one of them has failed, the entry fails.
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

// fail marks an entry, and all that wait for it, as failed.
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

// takeFailed removes the failed entries from the queue, so that they can be added again, and returns them.
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

// drain waits until all entries are sent or have failed. add must not be called any more.
func (q *queue) drain() {
	q.mu.Lock()
	q.closed = true
	q.changed.Broadcast()
	q.mu.Unlock()
	q.workers.Wait()
}
