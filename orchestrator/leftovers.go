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

// A builder that is killed leaves its containers on the engine. Running ones end by themselves, because they get no
// heartbeat any more (jobenv.Heartbeat). The other builders of the instance then remove them.
//
// A builder must not remove a container that another running builder still uses. So it removes no running container.
// It removes a container that has ended, or has not started, only after the time that its own builder may need to
// remove or start it. Each builder measures this time itself, because the clocks of machines differ.

const (
	sweepInterval = 10 * time.Second
	// A container is a leftover if it ended endedTime ago, or was created createdTime ago and has not
	// started; fillingTime, if its start fills a store. Builders normally take milliseconds to remove or start a
	// container.
	endedTime   = 15 * time.Second
	createdTime = time.Minute
	fillingTime = engine.FillTimeout + time.Minute
)

// A sighting is the state of a container, and when this builder first saw it in that state.
type sighting struct {
	state engine.State
	since time.Time
}

// leftovers removes containers that no builder uses. Its methods are safe for concurrent use.
type leftovers struct {
	builder   string                // this builder's id
	isRunning func(job string) bool // whether a job of this builder runs on the engine
	asked     func(err error)       // called when the engine was asked for its containers; nil: nothing is

	sweeping sync.Mutex          // held during a sweep; nobody waits for it
	seen     map[string]sighting // of containers, by their IDs; guarded by sweeping
}

// sweep removes leftover containers from an engine, and calls removed for each. It continues after a failure, until ctx
// ends. It does nothing if another sweep is in progress.
func (l *leftovers) sweep(ctx context.Context, e engine.Engine, removed func(id string)) error {
	if !l.sweeping.TryLock() {
		return nil
	}
	defer l.sweeping.Unlock()
	found, err := e.List(ctx)
	if l.asked != nil && ctx.Err() == nil {
		l.asked(err)
	}
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
		if ctx.Err() != nil { // a removal does not end with ctx, and takes long if the engine hangs
			return errors.Join(failed, context.Cause(ctx))
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

// isLeftover reports whether no builder uses a container that has been in its state for that time.
func (l *leftovers) isLeftover(c engine.Listed, time time.Duration) bool {
	job := c.Labels[engine.LabelJob]
	if c.Labels[engine.LabelBuilder] == l.builder && job != "" && !l.isRunning(job) {
		return true // this builder could not remove it at the job's end
	}
	switch c.State {
	case engine.Ended:
		return time >= endedTime
	case engine.Created:
		if _, fills := c.Labels[engine.LabelFills]; fills {
			return time >= fillingTime
		}
		return time >= createdTime // also that of a job which runs: the engine has created it, and the answer was lost
	}
	return false
}

// sweepAtTimes removes leftovers regularly until ctx ends.
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
	err := n.leftovers.sweep(ctx, n.engine, func(id string) { n.b.log.Info("removed a leftover container", "container", id) })
	if err != nil && ctx.Err() == nil {
		n.b.log.Debug("cannot remove leftover containers", "err", err)
		n.engineFailed(err)
	}
}

// Unused is an engine that can remove unused networks and volumes.
type Unused interface {
	engine.Engine
	// RemoveUnused removes everything of the instance except containers and stores, and calls removed for
	// each thing. It returns an error for a thing that a container uses.
	RemoveUnused(ctx context.Context, removed func(kind, name string)) error
}

// Cleanup removes everything from an engine that the builders of its instance have left there, except the stores.
// It calls removed for each thing. It returns an error and removes nothing if a container of the instance runs.
func Cleanup(ctx context.Context, e Unused, removed func(kind, name string)) error {
	found, err := e.List(ctx)
	if err != nil {
		return err
	}
	var running []string
	for _, c := range found {
		if c.State == engine.Running {
			running = append(running, c.Name)
		}
	}
	if len(running) > 0 {
		return fmt.Errorf("containers of jobs are running: %s\nhint: stop their builder first; containers of a builder that was killed end within a minute",
			strings.Join(running, ", "))
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
