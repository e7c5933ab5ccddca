// Package memengine is a container engine in memory for tests. It implements engine.Engine, and its
// containers run a function of the test.
package memengine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"iglu.sh/builder/orchestrator/engine"
)

// An Engine is an engine.Engine. Any number of builders can use one.
type Engine struct {
	Run     func(p *Process) int    // the program of all containers; returns the exit code
	Machine engine.Info             // the result of Info
	Images  []string                // the IDs of the images that it has; nil: every one
	Fail    func(call string) error // returns the error of a call, given the name of its method; may be nil

	mu         sync.Mutex
	made       int // number of containers made
	containers map[string]*container
	volumes    map[string]engine.Volume
}

// New returns an empty engine.
func New(run func(p *Process) int) *Engine {
	return &Engine{Run: run, Machine: engine.Info{CPUs: 8, Memory: 8 << 30}, containers: make(map[string]*container), volumes: make(map[string]engine.Volume)}
}

func (e *Engine) fail(call string) error {
	if e.Fail != nil {
		return e.Fail(call)
	}
	return nil
}

// locked calls do with the lock held, unless Fail returns an error for the call.
func (e *Engine) locked(call string, do func()) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.fail(call)
	if err == nil {
		do()
	}
	return err
}

func (e *Engine) Info(context.Context) (engine.Info, error) { return e.Machine, e.fail("Info") }
func (e *Engine) Ready(context.Context) error               { return e.fail("Ready") }
func (e *Engine) Volumes() engine.Volumes                   { return volumes{e} }
func (e *Engine) Close() error                              { return nil }

func (e *Engine) Image(context.Context, func(line string)) (engine.Image, error) {
	return engine.Image{ID: "sha256:1", Ref: "image", Digest: "sha256:2", Platform: "linux/amd64", Size: 1000}, e.fail("Image")
}

func (e *Engine) Create(_ context.Context, spec engine.Spec) (engine.Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.containers[spec.Name] != nil {
		return nil, engine.ErrInUse
	}
	if e.Images != nil && !slices.Contains(e.Images, spec.Image) {
		return nil, engine.ErrNotFound
	}
	if spec.Store.Name != "" && e.volumes[spec.Store.Name].Name == "" {
		e.volumes[spec.Store.Name] = spec.Store
	}
	e.made++
	c := &container{engine: e, id: fmt.Sprint(e.made), spec: spec, state: engine.Created, output: make(chan chunk),
		terminated: newSignal(), killed: newSignal(), lifeline: newSignal(), ended: newSignal()}
	e.containers[spec.Name] = c
	if err := e.fail("Create"); err != nil { // its answer is lost
		return nil, err
	}
	return c, nil
}

func (e *Engine) List(context.Context) (all []engine.Listed, err error) {
	err = e.locked("List", func() {
		for name, c := range e.containers {
			all = append(all, engine.Listed{ID: c.id, Name: name, State: c.state, Labels: c.spec.Labels})
		}
	})
	return all, err
}

func (e *Engine) Remove(_ context.Context, id string) error {
	return e.locked("Remove", func() {
		for name, c := range e.containers {
			if c.id == id {
				c.kill()
				if e.containers[name] == c { // kill unlocks: another removal may have been faster, and the name be used again
					delete(e.containers, name)
				}
			}
		}
	})
}

// A container is an engine.Container, and the engine.Stream of itself.
type container struct {
	engine                              *Engine
	id                                  string
	spec                                engine.Spec
	state                               engine.State
	code                                int
	output                              chan chunk
	terminated, killed, lifeline, ended *signal
}

// kill ends the container. c.engine.mu must be held.
func (c *container) kill() {
	if c.state == engine.Created {
		return
	}
	c.killed.close()
	c.engine.mu.Unlock()
	<-c.ended.c
	c.engine.mu.Lock()
}

func (c *container) ID() string                       { return c.id }
func (c *container) Remove(ctx context.Context) error { return c.engine.Remove(ctx, c.id) }
func (c *container) Write(p []byte) (int, error)      { return len(p), nil }
func (c *container) Close() error                     { c.lifeline.close(); return nil }

func (c *container) Start(context.Context) (engine.Stream, error) {
	c.engine.mu.Lock()
	defer c.engine.mu.Unlock()
	err := c.engine.fail("Start")
	if f, ok := errors.AsType[*engine.Failure](err); ok && f.End == "" {
		return nil, err // the engine has refused it; otherwise its answer is lost
	}
	c.state = engine.Running
	go func() {
		code := c.engine.Run(c.process())
		c.engine.mu.Lock()
		defer c.engine.mu.Unlock()
		if c.killed.isClosed() {
			code = 128 + 9
		}
		c.state, c.code = engine.Ended, code
		c.ended.close()
	}()
	return c, err
}

func (c *container) Wait(ctx context.Context) (engine.Exit, error) {
	select {
	case <-c.ended.c:
		return engine.Exit{Code: c.code}, c.engine.fail("Wait")
	case <-ctx.Done():
		return engine.Exit{}, context.Cause(ctx)
	}
}

func (c *container) Stop(_ context.Context, grace time.Duration) error {
	c.terminated.close()
	select {
	case <-c.ended.c:
	case <-time.After(grace):
		c.killed.close()
		<-c.ended.c
	}
	return c.engine.fail("Stop")
}

func (c *container) Copy(stdout, stderr io.Writer) error {
	for to := map[bool]io.Writer{false: stdout, true: stderr}; ; {
		select {
		case k := <-c.output:
			_, err := to[k.ofStderr].Write(k.data)
			close(k.taken)
			if err != nil {
				return err
			}
		case <-c.ended.c:
			return c.engine.fail("Copy")
		case <-c.lifeline.c:
			return nil
		}
	}
}
