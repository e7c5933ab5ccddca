package memengine

import (
	"io"
	"strings"
	"sync"

	"iglu.sh/builder/orchestrator/engine"
)

// A Process is the program in a container. When a Write of its output returns, the builder has received it.
type Process struct {
	Spec           engine.Spec
	Stdout, Stderr io.Writer
	Terminated     <-chan struct{} // closed when the container is asked to end
	Killed         <-chan struct{} // closed when it is killed: the exit code is then ignored
	Lifeline       <-chan struct{} // closed when its standard input has ended
}

// Getenv returns a variable of the container's environment, or "".
func (p *Process) Getenv(name string) string {
	for _, variable := range p.Spec.Env {
		if value, ok := strings.CutPrefix(variable, name+"="); ok {
			return value
		}
	}
	return ""
}

func (c *container) process() *Process {
	return &Process{Spec: c.spec, Stdout: printer{c, false}, Stderr: printer{c, true},
		Terminated: c.terminated.c, Killed: c.killed.c, Lifeline: c.lifeline.c}
}

// A printer is one of the outputs of a container.
type printer struct {
	*container
	ofStderr bool
}

// A chunk is the data of one Write.
type chunk struct {
	data     []byte
	ofStderr bool
	taken    chan struct{}
}

func (p printer) Write(data []byte) (int, error) {
	k := chunk{data, p.ofStderr, make(chan struct{})}
	select {
	case p.output <- k:
		<-k.taken
	case <-p.lifeline.c: // nobody reads
	}
	return len(data), nil
}

// A signal is a channel that may be closed several times.
type signal struct {
	once sync.Once
	c    chan struct{}
}

func newSignal() *signal { return &signal{c: make(chan struct{})} }

func (s *signal) close() { s.once.Do(func() { close(s.c) }) }

func (s *signal) isClosed() bool {
	select {
	case <-s.c:
		return true
	default:
		return false
	}
}
