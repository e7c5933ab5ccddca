// Package engine has the interface between package orchestrator and the container engine that runs a job's
// container. It has only types, constants and errors. Package orchestrator/docker implements the interface for Docker
// and Podman. Tests also use an engine in memory.
package engine

import (
	"context"
	"errors"
	"io"
	"time"

	"iglu.sh/builder/internal/jobend"
)

// An Engine runs containers. It labels everything that it creates with the name of the builder's instance, and uses
// only containers, volumes and networks with that label. Its methods are safe for concurrent use.
type Engine interface {
	// Info describes the engine's machine. It fails within seconds if the engine does not answer.
	Info(ctx context.Context) (Info, error)
	// Ready returns an error if no job's container could be created now. It neither creates a container nor
	// pulls an image. It fails within seconds if the engine does not answer.
	Ready(ctx context.Context) error
	// Image returns the job image, and pulls it if necessary. progress gets a line for each step of a pull.
	Image(ctx context.Context, progress func(line string)) (Image, error)
	// Create creates a container and does not start it. The error is ErrInUse if the engine has a container
	// of that name, and ErrNotFound if it does not have the image. If ctx ends while the engine creates the container, Create does not return: the engine
	// would still create it, and nobody would know it.
	Create(ctx context.Context, spec Spec) (Container, error)
	// List returns the containers of the instance, including those of other builders. It leaves out containers that
	// the Engine itself uses now, for example to fill a volume.
	List(ctx context.Context) ([]Listed, error)
	// Remove removes a container that List has returned. It returns nil if the container does not exist.
	Remove(ctx context.Context, id string) error
	// Volumes returns the interface to the instance's volumes that keep Nix stores.
	Volumes() Volumes
	// Close closes the connection to the engine.
	Close() error
}

// A Container is a container that Create has created. Call its methods in the order of this list.
type Container interface {
	ID() string
	// Start starts the container. No byte of its output is lost, and neither is its exit code.
	Start(ctx context.Context) (Stream, error)
	// Wait waits for the container's end.
	Wait(ctx context.Context) (Exit, error)
	// Stop asks the container to end, and kills it after the time grace.
	Stop(ctx context.Context, grace time.Duration) error
	// Remove removes the container, even if it runs, and its anonymous volumes.
	Remove(ctx context.Context) error
}

// A Stream is a running container's standard input and outputs. Only the container's heartbeat is written to its
// standard input: see jobenv.Heartbeat.
type Stream interface {
	io.Writer
	// Copy writes the outputs to two writers as they arrive. It returns when both outputs have ended, a writer
	// fails, or the stream is closed. It returns the error of a writer unchanged.
	Copy(stdout, stderr io.Writer) error
	// Close closes the stream, and with it the container's standard input.
	Close() error
}

// Volumes manages the volumes that keep Nix stores between containers.
type Volumes interface {
	List(ctx context.Context) ([]Volume, error)
	// Get returns a volume, or ErrNotFound.
	Get(ctx context.Context, name string) (Volume, error)
	Create(ctx context.Context, v Volume) error
	// Remove removes a volume. It returns nil if the volume does not exist, and ErrInUse if a container
	// uses it.
	Remove(ctx context.Context, name string) error
}

// Errors of an engine.
var (
	ErrInUse    = errors.New("it is in use")
	ErrNotFound = errors.New("it is not on the engine")
)

// Info describes an engine and its machine.
type Info struct {
	ID       string // the engine's unique ID
	Name     string // the machine's host name
	Platform string // the machine's operating system and architecture, such as linux/amd64
	CPUs     int
	Memory   int64 // in bytes
	// Sandboxed is true if Nix uses its own sandbox in the containers.
	Sandboxed bool
}

// An Image is an image that the engine has.
type Image struct {
	ID       string // the engine's ID of the image
	Ref      string // the configured name
	Digest   string // the digest in its registry; the ID if the image was not pulled
	Platform string // such as linux/amd64
	Size     int64  // unpacked, in bytes
}

// A Spec describes a container to create.
type Spec struct {
	Name    string            // unique on the engine
	Labels  map[string]string // in addition to the instance's label
	Image   string            // the image's ID
	Env     []string
	Store   Volume  // mounted at /nix; the zero Volume means none
	Fresh   bool    // no container has used the store yet: the engine fills it from the image
	Memory  int64   // in bytes
	CPUs    float64 // processors
	PIDs    int64   // processes and threads at once
	Offline bool    // the container gets no network
}

// FillTimeout is how long an engine may take to fill a store from the image. A large image on a slow disk takes minutes.
// Docker fills it in Create, and Podman in Start.
const FillTimeout = 15 * time.Minute

// A Volume is a volume that keeps a Nix store.
type Volume struct {
	Name   string
	Labels map[string]string // in addition to the instance's label
}

// An Exit says how a container ended.
type Exit struct {
	Code        int
	OutOfMemory bool // the kernel killed the container's first process because memory ran out
}

// Exit codes of a container whose first process was ended by SIGKILL or SIGTERM, as in shells. Engines end containers
// with these signals.
const (
	ExitKilled     = 128 + 9
	ExitTerminated = 128 + 15
)

// A State is the state of a container.
type State string

// The states of a container.
const (
	Created State = "created" // it has not started
	Running State = "running" // includes every state that is not one of the others
	Ended   State = "ended"
)

// A Listed is an entry in the engine's list of the instance's containers.
type Listed struct {
	ID     string
	Name   string
	State  State
	Labels map[string]string
}

// Labels of everything that builders create on an engine.
const (
	LabelInstance = "sh.iglu.builder.instance" // the name of the builder's instance; on everything
	LabelJob      = "sh.iglu.builder.job"      // the job's id; on containers of jobs
	LabelBuilder  = "sh.iglu.builder.id"       // the id of the builder that created it; on containers
	LabelStore    = "sh.iglu.builder.store"    // the repository; on volumes that keep a Nix store
	LabelFills    = "sh.iglu.builder.fills"    // on containers whose start fills a store, and so can take FillTimeout
)

// A Failure is an error with two sentences for the job's client: what is wrong, and what to do. The cause is for the
// server's log.
type Failure struct {
	End    jobend.End // how the job ends because of it; empty: jobend.Failed
	What   string
	Advice string
	Cause  error
	Call   string // the engine's call that failed, from a fixed list; empty: the engine has not failed
}

func (f *Failure) Error() string {
	text := f.What + " " + f.Advice
	if f.Cause != nil {
		text += " (" + f.Cause.Error() + ")"
	}
	return text
}

func (f *Failure) Unwrap() error { return f.Cause }
