package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"iglu.sh/builder/orchestrator/engine"
)

// A builder that dies leaves its containers. Those that run end by themselves, because their standard
// input has (jobenv.Heartbeat). The builders of its instance that live remove them then. What
// could be another builder's that lives is left alone: a container that runs, and one that has ended,
// or is about to start, for as long as its builder may need for what comes next. How long it has been
// so, each builder sees for itself, because the clocks of machines differ.

const (
	sweepInterval = 10 * time.Second
	// endedTime is how long a container has ended that nobody wants any more, and createdTime how
	// long one has not started. Builders take milliseconds for what comes next, as a rule.
	endedTime   = 15 * time.Second
	createdTime = time.Minute
)

// A sighting is since when a container has been in a state.
type sighting struct {
	state engine.State
	since time.Time
}

// leftovers removes containers that nobody wants. Its methods are safe for concurrent use.
type leftovers struct {
	builder   string                // this builder's id
	isRunning func(job string) bool // whether a job of this builder runs on the engine

	mu   sync.Mutex
	seen map[string]sighting // of containers that do not run, by their IDs
}

// sweep removes what is left over on the engine, and calls removed for each. It goes on after a failure.
func (l *leftovers) sweep(ctx context.Context, e engine.Engine, removed func(id string)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	found, err := e.List(ctx)
	if err != nil {
		return err
	}
	seen := make(map[string]sighting)
	var failed error
	for _, c := range found {
		now := sighting{c.State, time.Now()}
		if before, ok := l.seen[c.ID]; ok && before.state == c.State {
			now = before
		}
		seen[c.ID] = now
		if !l.isLeftover(c, time.Since(now.since)) {
			continue
		}
		if err := e.Remove(ctx, c.ID); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		removed(c.ID)
	}
	l.seen = seen
	return failed
}

// isLeftover reports whether nobody wants a container that has been in its state for so long.
func (l *leftovers) isLeftover(c engine.Listed, time time.Duration) bool {
	job := c.Labels[engine.LabelJob]
	if c.Labels[engine.LabelBuilder] == l.builder && job != "" && !l.isRunning(job) {
		return true // it could not be removed
	}
	switch c.State {
	case engine.Ended:
		return time >= endedTime
	case engine.Created:
		return time >= createdTime && (c.Labels[engine.LabelBuilder] != l.builder || job == "")
	}
	return false
}

// sweepAtTimes removes leftovers until ctx ends.
func (n *node) sweepAtTimes(ctx context.Context) {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		n.sweep(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (n *node) sweep(ctx context.Context) {
	err := n.leftovers.sweep(ctx, n.engine, func(id string) { n.b.log.Info("removed a container that was left over", "container", id) })
	if err != nil && ctx.Err() == nil {
		n.b.log.Debug("cannot remove what is left over", "err", err)
		n.engineFailed(err)
	}
}

// Unused is an engine that can remove what containers use, once they do not.
type Unused interface {
	engine.Engine
	// RemoveUnused removes what is no container and no store, and calls removed for each. What a
	// container uses stays, which is an error.
	RemoveUnused(ctx context.Context, removed func(kind, name string)) error
}

// Cleanup removes from an engine what the builders of its instance have left there, but for the
// stores, and calls removed for each thing. While a container runs, it removes nothing.
func Cleanup(ctx context.Context, e Unused, removed func(kind, name string)) error {
	found, err := e.List(ctx)
	if err != nil {
		return err
	}
	var living []string
	for _, c := range found {
		if c.State == engine.Running {
			living = append(living, c.Name)
		}
	}
	if len(living) > 0 {
		return fmt.Errorf("containers of jobs are running: %s\nhint: stop their builder first; containers of a builder that has died end within a minute",
			strings.Join(living, ", "))
	}
	var failed error
	for _, c := range found {
		if err := e.Remove(ctx, c.ID); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		removed("container", c.ID)
	}
	return errors.Join(failed, e.RemoveUnused(ctx, removed))
}
