package orchestrator

import (
	"context"
	"slices"
	"sync"

	"iglu.sh/builder/internal/jobend"
)

// A line hands out slots in the order in which jobs have joined it.
type line struct {
	mu      sync.Mutex
	free    int // slots; 0 while a job waits
	taken   int
	waiting []*ticket // the first is the next to get a slot
	closed  bool
}

// A ticket is a job's place in the line, and then its slot.
type ticket struct {
	line  *line
	moved chan struct{} // holds an item when the job has moved up since it last looked
	has   bool          // a slot
	left  bool          // neither waits nor has a slot
}

func newLine(slots int) *line { return &line{free: slots} }

// join gives a job a free slot, or a place at the end of the line.
func (l *line) join() *ticket {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &ticket{line: l, moved: make(chan struct{}, 1)}
	l.waiting = append(l.waiting, t)
	l.advance()
	return t
}

// advance gives free slots to the first in the line, and tells the others that they have moved up. Its
// caller holds mu.
func (l *line) advance() {
	for l.free > 0 && len(l.waiting) > 0 && !l.closed {
		l.free--
		l.taken++
		l.waiting[0].has = true
		l.waiting[0].tell()
		l.waiting = slices.Delete(l.waiting, 0, 1)
	}
	for _, t := range l.waiting {
		t.tell()
	}
}

// tell has the job look where it stands.
func (t *ticket) tell() {
	select {
	case t.moved <- struct{}{}:
	default: // it has not looked yet
	}
}

// wait returns nil when the job has a slot, or why it gets none: the cause of ctx's end, or
// jobend.Shutdown. Meanwhile it calls ahead with the number of jobs that wait before this one, first
// and whenever that changes.
func (t *ticket) wait(ctx context.Context, ahead func(jobs int)) error {
	for last := -1; ; {
		jobs, has, closed := t.look()
		switch {
		case has:
			return nil
		case closed:
			return jobend.Shutdown
		case jobs != last:
			ahead(jobs)
			last = jobs
		}
		select {
		case <-t.moved:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// look returns where the job stands: how many wait before it, or that it has a slot, or that nobody
// gets one any more.
func (t *ticket) look() (ahead int, has, closed bool) {
	t.line.mu.Lock()
	defer t.line.mu.Unlock()
	return slices.Index(t.line.waiting, t), t.has, t.line.closed
}

// leave gives the job's slot to the next, or its place in the line up.
func (t *ticket) leave() {
	t.line.mu.Lock()
	defer t.line.mu.Unlock()
	if t.left {
		return
	}
	t.left = true
	if t.has {
		t.line.taken--
		t.line.free++
	} else if i := slices.Index(t.line.waiting, t); i >= 0 {
		t.line.waiting = slices.Delete(t.line.waiting, i, i+1)
	}
	t.line.advance()
}

// close ends the waiting of all that wait, now and later.
func (l *line) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.advance()
}

// load returns how many jobs have a slot, and how many wait for one.
func (l *line) load() (running, waiting int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.taken, len(l.waiting)
}
