package orchestrator

import (
	"context"
	"sync"
)

// A shift sees to it that upkeep happens only while no job is there: a job that comes ends
// the upkeep and begins when that has ended.
type shift struct {
	turn sync.Mutex // held by the job, or by the upkeep

	mu        sync.Mutex
	jobs      int                // that are there, or wait for the upkeep to end
	interrupt context.CancelFunc // ends the upkeep; nil while there is none
}

// job waits until no upkeep is under way, and keeps it away until the function that it
// returns is called.
func (s *shift) job() (end func()) {
	s.mu.Lock()
	s.jobs++
	if s.interrupt != nil {
		s.interrupt()
	}
	s.mu.Unlock()
	s.turn.Lock()
	return func() {
		s.turn.Unlock()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.jobs--
	}
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
	s.turn.Lock() // which nobody holds
	s.mu.Unlock()

	work(ctx)
	cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.interrupt = nil
	s.turn.Unlock()
}
