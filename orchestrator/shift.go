package orchestrator

import (
	"context"
	"sync"
	"time"
)

// A shift sees to it that upkeep happens only while no job is there: a job that comes ends
// the upkeep and begins when that has ended.
type shift struct {
	turn chan struct{} // holds an item while a job or the upkeep is under way

	mu        sync.Mutex
	jobs      int                // that are there, or wait for the upkeep to end
	interrupt context.CancelFunc // ends the upkeep; nil while there is none
}

func newShift() *shift { return &shift{turn: make(chan struct{}, 1)} }

// longWait is after how long a job that waits is told that it does.
const longWait = time.Second

// job waits until neither another job nor upkeep is under way, and keeps both away until the
// function that it returns is called. It calls waits if that takes long. The error is that of
// ctx.
func (s *shift) job(ctx context.Context, waits func()) (end func(), err error) {
	s.mu.Lock()
	s.jobs++
	if s.interrupt != nil {
		s.interrupt()
	}
	s.mu.Unlock()
	long := time.NewTimer(longWait)
	defer long.Stop()
	for {
		select {
		case s.turn <- struct{}{}:
			return func() {
				<-s.turn
				s.jobEnded()
			}, nil
		case <-long.C:
			waits()
		case <-ctx.Done():
			s.jobEnded()
			return nil, context.Cause(ctx)
		}
	}
}

func (s *shift) jobEnded() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobs--
}

// upkeep runs work while no job is there, or not at all. The context that work gets ends
// when a job comes.
func (s *shift) upkeep(ctx context.Context, work func(ctx context.Context)) {
	s.mu.Lock()
	if s.jobs > 0 {
		s.mu.Unlock()
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	s.interrupt = cancel
	s.turn <- struct{}{} // there is room: no job has it
	s.mu.Unlock()

	work(ctx)
	cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.interrupt = nil
	<-s.turn
}
