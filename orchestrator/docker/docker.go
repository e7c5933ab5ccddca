// Package docker is an engine that speaks Docker's API: Docker, and Podman. It makes containers
// that a job cannot leave (hostconfig.go, sandbox.go), puts the builder's program (program.go) and
// a network (network.go) at their side, and sees each from its start to its removal (container.go).
package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/client"

	"iglu.sh/builder/images"
	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/orchestrator/engine"
)

const (
	// pingTimeout bounds the question whether the engine answers at all.
	pingTimeout = 3 * time.Second
	// callTimeout bounds the calls that make a container. They take milliseconds; on an
	// engine whose disk is busy, seconds.
	callTimeout = 2 * time.Minute
)

// Options say how an engine is used.
type Options struct {
	// Host is where the engine listens, as in DOCKER_HOST; empty for what that says.
	Host string
	// Instance is the name that labels everything on the engine.
	Instance string
	// Image is the image that jobs run in, and Pull says when it is pulled.
	Image string
	Pull  images.Policy
	// Network is the name of the engine's network that jobs are connected to;
	// empty for a bridge of the instance's own.
	Network string
	// Program is the path of the statically linked Linux program that runs inside
	// the containers: this program itself.
	Program string
	// Sandbox says when Nix is to use its own, and SandboxUnsafe that it may also where
	// that opens a way out of the container.
	Sandbox       Sandbox
	SandboxUnsafe bool

	// Dial connects to the engine, through an agent; nil is the network's own. With it, no proxy is
	// used, and Docker's variables for TLS do not count.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// An Engine is an engine.Engine. The engine that it speaks to need not be running yet.
type Engine struct {
	client  *client.Client
	options Options
	image   *images.Source
	log     *slog.Logger
	network *network
	program *program

	mu         sync.Mutex
	negotiated bool     // which version of the API is spoken
	machine    *machine // what the engine's machine is; nil: not known
}

var _ engine.Engine = (*Engine)(nil)

// New returns the Docker engine that its options, or DOCKER_HOST and the other variables of
// Docker's clients, name.
func New(options Options, log *slog.Logger) (*Engine, error) {
	c, err := newClient(options)
	if err != nil {
		return nil, fmt.Errorf("configure the connection to the engine: %w", err)
	}
	d := &Engine{
		client:  c,
		options: options,
		image:   images.NewSource(c, options.Image, options.Pull),
		log:     log,
	}
	d.network = &network{client: c, instance: options.Instance, own: nameOf(options.Instance, "jobs"), name: options.Network}
	d.program = &program{client: c, instance: options.Instance, file: options.Program, prefix: nameOf(options.Instance, "program-")}
	return d, nil
}

func newClient(options Options) (*client.Client, error) {
	transport := new(http.Transport)
	how := []client.Opt{client.FromEnv}
	if options.Dial != nil {
		plain := &http.Client{Transport: transport, CheckRedirect: client.CheckRedirect}
		how = []client.Opt{client.WithHTTPClient(plain), client.WithHostFromEnv(), client.WithVersionFromEnv()}
	}
	if options.Host != "" {
		how = append(how, client.WithHost(options.Host))
	}
	c, err := client.NewClientWithOpts(append(how, client.WithAPIVersionNegotiation())...)
	if err == nil && options.Dial != nil { // after the host, which sets them
		transport.DialContext, transport.Proxy = options.Dial, nil
	}
	return c, err
}

// Close frees the connection to the engine.
func (d *Engine) Close() error { return d.client.Close() }

// ping asks whether the engine answers, and returns a failure that says what to do if not.
func (d *Engine) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	pong, err := d.client.Ping(ctx)
	switch {
	case err == nil:
		d.negotiate(pong)
		return nil
	case strings.Contains(err.Error(), "permission denied"):
		return &engine.Failure{Cause: err, Call: callPing, End: jobend.EngineGone, What: "The builder has no permission to use the container engine.",
			Advice: "Run it as a user of the group that the engine's socket belongs to (with docker-compose, set DOCKER_GID to that group's number)."}
	case strings.Contains(err.Error(), "tls: "):
		return &engine.Failure{Cause: err, Call: callPing, End: jobend.EngineGone, What: "The builder and the agent of the container engine do not trust each other's keys.",
			Advice: "Give both the keys that one run of 'iglu-builder agent keys' has made (IGLU_AGENT_KEYS)."}
	default:
		return &engine.Failure{Cause: err, Call: callPing, End: jobend.EngineGone, What: "The container engine does not answer.",
			Advice: "Start it, or set DOCKER_HOST to where it listens."}
	}
}

// negotiate has the engine's client use the version of the API that the engine speaks. The client
// does that by itself at its first call, but several of its methods look at the version before that,
// and without its lock: so the first use of it is a ping.
func (d *Engine) negotiate(pong types.Ping) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.negotiated && pong.APIVersion != "" { // else it is something else that answers
		d.client.NegotiateAPIVersionPing(pong)
		d.negotiated = true
	}
}

// Info implements engine.Engine.
func (d *Engine) Info(ctx context.Context) (engine.Info, error) {
	if err := d.ping(ctx); err != nil {
		return engine.Info{}, err
	}
	m, err := d.describe(ctx)
	if err != nil {
		return engine.Info{}, err
	}
	sandboxed, err := d.usesSandbox(m)
	return engine.Info{ID: m.id(), Name: m.Name, Platform: m.platform, CPUs: m.NCPU, Memory: m.MemTotal, Sandboxed: sandboxed}, err
}

// readyTimeout bounds each question of Ready but the ping.
const readyTimeout = 5 * time.Second

// Ready implements engine.Engine: the image may be missing as long as no pull of it has failed, and the
// network if it is the builder's own.
func (d *Engine) Ready(ctx context.Context) error {
	if _, err := d.Info(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := d.imageFailure(d.image.Check(ctx)); err != nil {
		return err
	}
	if d.options.Network == "" {
		return nil
	}
	_, err := d.network.ensure(ctx, nameLock{}) // which only looks: it is not to be made
	return callFailure("provide the jobs' network", err)
}

// Image implements engine.Engine.
func (d *Engine) Image(ctx context.Context, progress func(line string)) (engine.Image, error) {
	found, err := d.image.Ensure(ctx, progress)
	if err != nil {
		return engine.Image{}, d.imageFailure(err)
	}
	return engine.Image{ID: found.ID, Ref: d.options.Image, Digest: found.Digest, Platform: found.Platform, Size: found.Size}, nil
}

// imageFailure turns an error of the image's source into one with a sentence for the client.
func (d *Engine) imageFailure(err error) error {
	if pull, ok := errors.AsType[*images.PullError](err); ok {
		return &engine.Failure{
			End:    jobend.NoImage,
			Call:   callPull,
			What:   fmt.Sprintf("The job image %s is not on the engine and cannot be pulled: %v.", pull.Ref, pull.Err),
			Advice: "Check the image's name (IGLU_JOB_IMAGE) and that the engine reaches its registry.",
			Cause:  err,
		}
	}
	return callFailure("look for the job image", err)
}

// IsOfJobs reports whether an address is one that a job can have, as far as that is known: of the
// network that jobs are connected to.
func (d *Engine) IsOfJobs(addr netip.Addr) bool { return d.network.contains(addr) }

// nameOf returns the name of a volume or a network of an instance.
func nameOf(instance, what string) string { return "iglu-builder-" + instance + "-" + what }

// forget has everything about the engine looked up anew: something may be gone that was there.
func (d *Engine) forget() {
	d.program.forget()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.machine = nil
}

// Calls of the engine that fail with a sentence of their own.
const (
	callPing    = "answer"
	callPull    = "pull the job image"
	callNetwork = "provide the jobs' network"
)

// Calls are what the engine is to do and can fail at, in the words of engine.Failure.Call.
var Calls = []string{callPing, callPull, callStore, "attach to the container", "describe its machine", "list containers", "list volumes",
	"look for the job image", "make the container", "pass on the container's output", "provide the jobs' network", "remove a volume",
	"remove the container", "start the container", "stop the container", "take the builder's program", "wait for the container"}

// callFailure turns an error of the engine into one with a sentence for the
// client; nil stays nil, and an error that has a sentence keeps it. what is one of few
// constants: it is counted by.
func callFailure(what string, err error) error {
	if _, ok := errors.AsType[*engine.Failure](err); err == nil || ok {
		return err
	}
	if isLost(err) {
		return &engine.Failure{Cause: err, Call: what, End: jobend.EngineGone,
			What:   fmt.Sprintf("The container engine stopped answering when it was asked to %s.", what),
			Advice: "Send the job again when it is back."}
	}
	return &engine.Failure{Cause: err, Call: what,
		What:   fmt.Sprintf("The container engine failed to %s: %v.", what, err),
		Advice: "If a setting of the builder is not the cause, its log and the engine's say more."}
}

// isLost reports whether an error is the end of a connection to the engine. Of some errors
// the engine's client keeps but the text.
func isLost(err error) bool {
	return client.IsErrConnectionFailed(err) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		strings.HasSuffix(err.Error(), io.EOF.Error())
}
