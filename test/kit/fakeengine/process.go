package fakeengine

import (
	"io"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/pkg/stdcopy"
)

// A Process is the program in a container.
type Process struct {
	Env            []string
	Stdout, Stderr io.Writer
	Terminated     <-chan struct{} // closed when it gets SIGTERM
	Killed         <-chan struct{} // closed when it is killed: it must return, and its exit code is ignored
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

// RunOutOfMemory makes the engine report that the container ran out of memory.
func (p *Process) RunOutOfMemory() {
	p.engine.mu.Lock()
	defer p.engine.mu.Unlock()
	p.container.outOfMemory = true
}

// killedCode is the exit code after SIGKILL.
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

// attachment is a client's connection to the output of a container.
type attachment struct{ conn *conn }

// Write writes output. It ignores errors, because the client may have disconnected.
func (a *attachment) Write(p []byte) (int, error) {
	if a.conn != nil {
		a.conn.Write(p)
	}
	return len(p), nil
}

// begin runs a container. e.mu must be held.
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

// attach connects a client to the output of a container that has not started.
func (e *Engine) attach(c *container, to *conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c.attached = to
}

// readInput reads a container's standard input from a connection.
func readInput(c *container, from *conn) {
	io.Copy(io.Discard, from)
	c.run.cutLifeline()
}

// stop stops a container as engines do: it asks the program to end, waits for the grace period, and kills it.
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

// Kill kills all running containers, as docker kill does.
func (e *Engine) Kill() {
	for _, c := range e.runningContainers() {
		c.run.kill()
		<-c.run.ended
	}
}

// Stop stops all running containers, as docker stop does.
func (e *Engine) Stop() {
	for _, c := range e.runningContainers() {
		e.stop(c, stopGrace)
	}
}

// stopGrace is the default grace period of docker stop.
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

// file returns a file of a container or of a volume that it mounts. e.mu must be held.
func (e *Engine) file(c *container, name string) (text []byte, ok bool) {
	files, name := e.filesAt(c, name)
	text, ok = files[name]
	return text, ok
}

// filesAt returns the files among which a container's file is, and its name in them. e.mu must be held.
func (e *Engine) filesAt(c *container, name string) (files map[string][]byte, within string) {
	for _, m := range c.HostConfig.Mounts {
		if name == m.Target || strings.HasPrefix(name, m.Target+"/") {
			return e.volumes[m.Source].files, path.Clean("/" + strings.TrimPrefix(name, m.Target))
		}
	}
	return c.files, name
}
