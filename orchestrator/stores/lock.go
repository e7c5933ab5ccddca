package stores

import (
	"context"
	"time"
)

// A lock is the lock of a store within one builder. Jobs get it in the order in which they asked for it. Maintenance
// is interrupted if a job wants the store.
type lock struct {
	held      chan struct{} // holds an item while the store is locked
	waiting   int           // how many jobs wait for the lock
	interrupt func()        // ends the maintenance that has the lock; nil if none has it
}

// longWait is after how long a line in the log of a job says that it waits.
const longWait = time.Second

// lock locks a store until unlock is called. It waits while another job has the lock, and calls waits, in another goroutine,
// if that takes long. It returns the cause of ctx if ctx ends.
func (p *Pool) lock(ctx context.Context, name string, waits func()) (unlock func(), err error) {
	p.mu.Lock()
	l := p.lockOf(name)
	l.waiting++
	if l.interrupt != nil {
		l.interrupt()
	}
	p.mu.Unlock()
	said := make(chan struct{})
	long := time.AfterFunc(longWait, func() {
		defer close(said)
		waits()
	})
	defer func() {
		if !long.Stop() {
			<-said
		}
	}()
	select {
	case l.held <- struct{}{}: // once: a goroutine that asked anew would be the last
		p.change(name, func() { l.waiting-- })
		return func() {
			p.change(name, func() { <-l.held })
			p.noteReturn()
		}, nil
	case <-ctx.Done():
		p.change(name, func() { l.waiting-- })
		p.noteReturn()
		return nil, context.Cause(ctx)
	}
}

// noteReturn makes Maintain look for stores to maintain, also for one whose maintenance was interrupted.
func (p *Pool) noteReturn() {
	select {
	case p.returned <- struct{}{}:
	default:
	}
}

// tryLock locks a store if nobody has the lock or waits for it. interrupt is called when a job wants the store.
func (p *Pool) tryLock(name string, interrupt func()) (unlock func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lockOf(name)
	if l.waiting > 0 || len(l.held) > 0 {
		return nil, false
	}
	l.held <- struct{}{} // does not block: only tryLock, with p.mu held, and waiting jobs send to it
	l.interrupt = interrupt
	return func() {
		p.change(name, func() {
			l.interrupt = nil
			<-l.held
		})
	}, true
}

// lockOf returns a store's lock. p.mu is held.
func (p *Pool) lockOf(name string) *lock {
	l := p.locks[name]
	if l == nil {
		l = &lock{held: make(chan struct{}, 1)}
		p.locks[name] = l
	}
	return l
}

// change calls do to change a store's lock, and removes the lock when nobody uses it any more.
func (p *Pool) change(name string, do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
	if l := p.locks[name]; l.waiting == 0 && len(l.held) == 0 { // it is there: its user is the caller
		delete(p.locks, name)
	}
}
