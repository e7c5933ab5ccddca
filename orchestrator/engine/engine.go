// Package engine is the seam between a job's life and the engine that runs its container:
// the types that cross it, and no code that runs. Package orchestrator/docker is the engine
// that builders use. An engine in memory, for tests, is the second.
package engine

import (
	"context"
	"errors"
	"io"
	"time"

	"iglu.sh/builder/internal/jobend"
)

// An Engine runs containers. Everything that it makes carries its builder's instance name, and
// it sees nothing else. Its methods are safe for concurrent use.
type Engine interface {
	// Info describes the engine's machine. It is also the question whether the engine answers,
	// and fails within seconds if it does not.
	Info(ctx context.Context) (Info, error)
	// Ready returns why no job's container could be made now, or nil as far as can be told without making
	// one or pulling an image. It fails within seconds if the engine does not answer.
	Ready(ctx context.Context) error
	// Image provides the job image. progress gets a line for each step of a pull.
	Image(ctx context.Context, progress func(line string)) (Image, error)
	// Create makes a container that has not started. The error is ErrInUse if the engine has a
	// container of that name. It does not end with ctx: the engine would go on, and make a
	// container that nobody knows.
	Create(ctx context.Context, spec Spec) (Container, error)
	// List returns the containers of the instance, which any of its builders may have made.
	List(ctx context.Context) ([]Listed, error)
	// Remove removes a container that List has returned. One that is gone is no error.
	Remove(ctx context.Context, id string) error
	// Volumes are the instance's volumes that keep Nix stores.
	Volumes() Volumes
	// Close frees the connection to the engine.
	Close() error
}

// A Container is one that Create has made. Its methods are called in the order in which they stand
// here.
type Container interface {
	ID() string
	// Start starts the container. No byte of its output and no exit code gets lost.
	Start(ctx context.Context) (Stream, error)
	// Wait waits for the container's end.
	Wait(ctx context.Context) (Exit, error)
	// Stop asks the container to end, and kills it after the time of grace.
	Stop(ctx context.Context, grace time.Duration) error
	// Remove removes the container, whether it runs or not, and its anonymous volumes.
	Remove(ctx context.Context) error
}

// A Stream is a running container's standard input and outputs. What is written to it is the
// container's heartbeat: see jobenv.Heartbeat.
type Stream interface {
	io.Writer
	// Copy writes the outputs as they come. It returns when both have ended, a writer fails,
	// or the stream is closed. The error of a writer is returned as it is.
	Copy(stdout, stderr io.Writer) error
	// Close ends the stream, and with it the container's standard input.
	Close() error
}

// Volumes are what keeps Nix stores between containers.
type Volumes interface {
	List(ctx context.Context) ([]Volume, error)
	// Get returns a volume, or ErrNotFound.
	Get(ctx context.Context, name string) (Volume, error)
	Create(ctx context.Context, v Volume) error
	// Remove removes a volume. One that is gone is no error. The error is ErrInUse if a
	// container uses it.
	Remove(ctx context.Context, name string) error
}

// What an engine refuses.
var (
	ErrInUse    = errors.New("it is in use")
	ErrNotFound = errors.New("it is not on the engine")
)

// Info is what an engine says of its machine.
type Info struct {
	CPUs   int
	Memory int64 // in bytes
	// Sandboxed is true if Nix can use its own sandbox in a container, and is to.
	Sandboxed bool
}

// An Image is one that the engine has.
type Image struct {
	ID       string // the engine's name for it
	Ref      string // the name that it was asked for by
	Digest   string // of what was pulled; the ID of an image that was not
	Platform string // such as linux/amd64
	Size     int64  // unpacked, in bytes
}

// A Spec is a container that is to be made.
type Spec struct {
	Name    string            // unique on the engine
	Labels  map[string]string // beside the instance's
	Image   string            // the image's ID
	Env     []string
	Store   Volume  // mounted at /nix; the zero Volume is none
	Memory  int64   // in bytes
	CPUs    float64 // processors
	PIDs    int64   // processes and threads at once
	Offline bool    // it gets no network
}

// A Volume keeps a Nix store.
type Volume struct {
	Name   string
	Labels map[string]string // beside the instance's
}

// An Exit is how a container ended.
type Exit struct {
	Code        int
	OutOfMemory bool // the kernel killed the container's first process for want of memory
}

// Exit codes of a container whose first process was ended by a signal, as shells have them: SIGKILL and
// SIGTERM. It is what an engine ends containers with.
const (
	ExitKilled     = 128 + 9
	ExitTerminated = 128 + 15
)

// A State is what a container is doing.
type State string

// The states of a container.
const (
	Created State = "created" // it has not started
	Running State = "running" // or about to end
	Ended   State = "ended"
)

// A Listed container is one of the instance, as the engine lists it.
type Listed struct {
	ID     string
	Name   string
	State  State
	Labels map[string]string
}

// Labels of what builders make on an engine.
const (
	LabelInstance = "sh.iglu.builder.instance" // the builder's instance name; on all
	LabelJob      = "sh.iglu.builder.job"      // the job's id; on containers of jobs
	LabelBuilder  = "sh.iglu.builder.id"       // of the builder that made it; on containers
	LabelStore    = "sh.iglu.builder.store"    // the repository; on volumes that keep a Nix store
)

// A Failure is an error with two sentences for the job's client: what is wrong, and what to do.
// The cause is for the server's log.
type Failure struct {
	End    jobend.End // how the job ends because of it; empty: jobend.Failed
	What   string
	Advice string
	Cause  error
	Call   string // what the engine was to do and did not, one of few texts; empty: it is not the engine's
}

func (f *Failure) Error() string {
	text := f.What + " " + f.Advice
	if f.Cause != nil {
		text += " (" + f.Cause.Error() + ")"
	}
	return text
}

func (f *Failure) Unwrap() error { return f.Cause }
