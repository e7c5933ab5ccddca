package server

import (
	"context"
	"errors"
	"sync"

	"iglu.sh/builder/orchestrator/docker"
	"iglu.sh/builder/orchestrator/engine"
)

// A fleetEngine is an engine of the fleet, which knows it until it is closed. When the container engine is replaced by
// one with another version of its API, for example by an upgrade, it is opened anew.
type fleetEngine struct {
	fleet   *fleet
	address string

	mu  sync.Mutex
	now *docker.Engine
}

var _ engine.Engine = (*fleetEngine)(nil)

// add makes an engine known to the fleet, until it is closed.
func (f *fleet) add(address string, e *docker.Engine) *fleetEngine {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.engines[address] = e
	return &fleetEngine{fleet: f, address: address, now: e}
}

// replace makes the fleet know another engine instead of one, or none if fresh is nil. The address may belong to
// another engine by now.
func (f *fleet) replace(address string, e, fresh *docker.Engine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.engines[address] != e:
	case fresh == nil:
		delete(f.engines, address)
	default:
		f.engines[address] = fresh
	}
}

// Close implements engine.Engine.
func (e *fleetEngine) Close() error {
	now := e.current()
	e.fleet.replace(e.address, now, nil)
	return now.Close()
}

func (e *fleetEngine) current() *docker.Engine {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.now
}

// reopen opens the engine anew, unless another call has done that.
func (e *fleetEngine) reopen(old *docker.Engine) (*docker.Engine, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.now != old {
		return e.now, nil
	}
	fresh, err := old.Reopen()
	if err != nil {
		return nil, err
	}
	e.fleet.replace(e.address, old, fresh)
	e.now = fresh
	old.Close() // closes idle connections only
	return fresh, nil
}

// try makes a call that begins with a ping. If the container engine was replaced, it makes the call once more.
func try[T any](e *fleetEngine, call func(e *docker.Engine) (T, error)) (T, error) {
	now := e.current()
	result, err := call(now)
	if !errors.Is(err, docker.ErrReplaced) {
		return result, err
	}
	fresh, failed := e.reopen(now)
	if failed != nil {
		return result, failed
	}
	return call(fresh)
}

// The remaining methods implement engine.Engine. Each job, and each check whether jobs could run, begins with Info, List
// or Ready.

func (e *fleetEngine) Info(ctx context.Context) (engine.Info, error) {
	return try(e, func(now *docker.Engine) (engine.Info, error) { return now.Info(ctx) })
}

func (e *fleetEngine) List(ctx context.Context) ([]engine.Listed, error) {
	return try(e, func(now *docker.Engine) ([]engine.Listed, error) { return now.List(ctx) })
}

func (e *fleetEngine) Ready(ctx context.Context) error {
	_, err := try(e, func(now *docker.Engine) (struct{}, error) { return struct{}{}, now.Ready(ctx) })
	return err
}

func (e *fleetEngine) Image(ctx context.Context, progress func(line string)) (engine.Image, error) {
	return e.current().Image(ctx, progress)
}

func (e *fleetEngine) Create(ctx context.Context, spec engine.Spec) (engine.Container, error) {
	return e.current().Create(ctx, spec)
}

func (e *fleetEngine) Remove(ctx context.Context, id string) error {
	return e.current().Remove(ctx, id)
}

func (e *fleetEngine) Volumes() engine.Volumes { return e.current().Volumes() }
