package stores

import (
	"context"
	"time"
)

// A lock keeps those of one builder apart who want the same store. Jobs get it in the order in which
// they came. Maintenance gives way to them.
type lock struct {
	held      chan struct{} // holds an item while somebody has the store
	waiting   int           // how many jobs wait for it
	interrupt func()        // ends the maintenance that has it; nil: none has it
}

// longWait is after how long the log of a job that waits says so.
const longWait = time.Second

// lock waits until nobody of this builder has a store, and keeps all others away until unlock is
// called. It calls waits if that takes long. The error is that of ctx.
func (p *Pool) lock(ctx context.Context, name string, waits func()) (unlock func(), err error) {
	p.mu.Lock()
	l := p.lockOf(name)
	l.waiting++
	if l.interrupt != nil {
		l.interrupt()
	}
	p.mu.Unlock()
	long := time.NewTimer(longWait)
	defer long.Stop()
	for {
		select {
		case l.held <- struct{}{}:
			p.change(name, func() { l.waiting-- })
			return func() { p.change(name, func() { <-l.held }) }, nil
		case <-long.C:
			waits()
		case <-ctx.Done():
			p.change(name, func() { l.waiting-- })
			return nil, context.Cause(ctx)
		}
	}
}

// tryLock is lock for those who do not wait. interrupt is called when a job wants the store.
func (p *Pool) tryLock(name string, interrupt func()) (unlock func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lockOf(name)
	if l.waiting > 0 || len(l.held) > 0 {
		return nil, false
	}
	l.held <- struct{}{} // there is room: all who fill it do so with p.mu or count as waiting
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

// change changes a store's lock, and forgets it when nobody uses it any more.
func (p *Pool) change(name string, do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
	if l := p.locks[name]; l != nil && l.waiting == 0 && len(l.held) == 0 {
		delete(p.locks, name)
	}
}
