package fakeengine

import (
	"io"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/pkg/stdcopy"
)

// A Process is what runs in a container.
type Process struct {
	Env            []string
	Stdout, Stderr io.Writer
	Terminated     <-chan struct{} // closed when it is told to end
	Killed         <-chan struct{} // closed when it is killed: it returns, and what it returns does not count
	Lifeline       <-chan struct{} // closed when its standard input has ended

	engine    *Engine
	container *container
}

// Getenv returns a variable of its environment, or "".
func (p *Process) Getenv(name string) string {
	for _, variable := range p.Env {
		if value, ok := strings.CutPrefix(variable, name+"="); ok {
			return value
		}
	}
	return ""
}

// Leave leaves a file in the container.
func (p *Process) Leave(name, text string) {
	p.engine.mu.Lock()
	defer p.engine.mu.Unlock()
	p.container.files[name] = []byte(text)
}

// RunOutOfMemory has the kernel kill something in the container for want of memory.
func (p *Process) RunOutOfMemory() {
	p.engine.mu.Lock()
	defer p.engine.mu.Unlock()
	p.container.outOfMemory = true
}

// killedCode is the exit code of what was killed.
const killedCode = 137

// A run is one run of a container.
type run struct {
	terminated, killed, lifeline, ended chan struct{}

	terminate, kill, cutLifeline func()
}

func newRun() *run {
	r := &run{make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{}), nil, nil, nil}
	r.terminate = sync.OnceFunc(func() { close(r.terminated) })
	r.kill = sync.OnceFunc(func() { close(r.killed) })
	r.cutLifeline = sync.OnceFunc(func() { close(r.lifeline) })
	return r
}

// attachment is one of a client to a container.
type attachment struct{ conn *conn }

// Write writes output. Nobody minds that a client is gone.
func (a *attachment) Write(p []byte) (int, error) {
	if a.conn != nil {
		a.conn.Write(p)
	}
	return len(p), nil
}

// begin runs a container. e.mu is held.
func (e *Engine) begin(c *container) {
	c.state = "running"
	r, to := c.run, &attachment{c.attached}
	p := &Process{
		Env: c.Env, Stdout: stdcopy.NewStdWriter(to, stdcopy.Stdout), Stderr: stdcopy.NewStdWriter(to, stdcopy.Stderr),
		Terminated: r.terminated, Killed: r.killed, Lifeline: r.lifeline, engine: e, container: c,
	}
	e.running.Go(func() {
		code := e.Run(p)
		select {
		case <-r.killed:
			code = killedCode
		default:
		}
		e.mu.Lock()
		c.state, c.code = "exited", code
		close(r.ended)
		attached := c.attached
		e.mu.Unlock()
		if attached != nil && !e.KeepOutput {
			attached.Close()
		}
	})
}

// attach has a connection get the output of a container that has not started.
func (e *Engine) attach(c *container, to *conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c.attached = to
}

// readInput has a connection be a container's standard input.
func readInput(c *container, from *conn) {
	io.Copy(io.Discard, from)
	c.run.cutLifeline()
}

// stop ends a container as engines do: it asks, waits for the grace, and kills.
func (e *Engine) stop(c *container, grace time.Duration) {
	c.run.terminate()
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case <-c.run.ended:
	case <-late.C:
		c.run.kill()
		<-c.run.ended
	}
}

// Kill kills whatever runs, as somebody would with the engine's own command.
func (e *Engine) Kill() {
	for _, c := range e.runningContainers() {
		c.run.kill()
		<-c.run.ended
	}
}

// Stop stops whatever runs, as somebody would with the engine's own command.
func (e *Engine) Stop() {
	for _, c := range e.runningContainers() {
		e.stop(c, stopGrace)
	}
}

// stopGrace is that of Docker's client.
const stopGrace = 10 * time.Second

func (e *Engine) runningContainers() (running []*container) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.containers {
		if c.state == "running" {
			running = append(running, c)
		}
	}
	return running
}

// file returns a file of a container or of a volume that it mounts. e.mu is held.
func (e *Engine) file(c *container, name string) (text []byte, ok bool) {
	files, name := e.filesAt(c, name)
	text, ok = files[name]
	return text, ok
}

// filesAt returns where a container's file is. e.mu is held.
func (e *Engine) filesAt(c *container, name string) (files map[string][]byte, within string) {
	for _, m := range c.HostConfig.Mounts {
		if name == m.Target || strings.HasPrefix(name, m.Target+"/") {
			return e.volumes[m.Source].files, path.Clean("/" + strings.TrimPrefix(name, m.Target))
		}
	}
	return c.files, name
}
