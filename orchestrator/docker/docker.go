// Package docker implements engine.Engine for engines with Docker's API: Docker and Podman. It creates containers that a
// job cannot leave (hostconfig.go, sandbox.go), with the builder's program (program.go) and a network (network.go), and
// runs each until its removal (container.go).
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
	"runtime"
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
	// pingTimeout is how long the engine may take to answer a ping.
	pingTimeout = 3 * time.Second
	// callTimeout is how long most other calls may take. They take milliseconds, or seconds if the engine's
	// disk is busy.
	callTimeout = 2 * time.Minute
)

// Options say how an engine is used.
type Options struct {
	// Host is where the engine listens, in the format of DOCKER_HOST; empty means the value of DOCKER_HOST.
	Host string
	// Instance is the name of the instance, which labels everything on the engine.
	Instance string
	// Image is the image that jobs run in, and Pull says when it is pulled.
	Image string
	Pull  images.Policy
	// Network is the name of the engine's network that jobs are connected to; empty means a bridge network
	// that the builder creates for the instance.
	Network string
	// Program is the path of the statically linked Linux program that runs inside the containers. It is this
	// program itself.
	Program string
	// Sandbox says when Nix uses its own sandbox. SandboxUnsafe allows this also on engines where the sandbox
	// lets a job leave the container.
	Sandbox       Sandbox
	SandboxUnsafe bool

	// Dial connects to the engine through an agent; nil means a direct connection. With Dial, no proxy and
	// none of Docker's variables for TLS are used.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// An Engine implements engine.Engine. The container engine need not be running yet.
type Engine struct {
	client  *client.Client
	options Options
	image   *images.Source
	log     *slog.Logger
	network *network
	program *program
	helpers sync.Map // the IDs of the containers that never start and are in use: locks, and the one that fills the volume

	mu         sync.Mutex
	negotiated string   // the version of the API that the engine had when ours was negotiated; empty: it is not yet
	machine    *machine // nil: not known yet, or it may be another one since
	logged     string   // what logMachine has logged last
}

var _ engine.Engine = (*Engine)(nil)

// New returns an engine for the address in the options, or in DOCKER_HOST and the other variables of Docker's clients. It
// does not connect to the engine.
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
	d.program = &program{client: c, instance: options.Instance, prefix: nameOf(options.Instance, "program-"),
		file: options.Program, platform: runtime.GOOS + "/" + runtime.GOARCH, filling: make(chan struct{}, 1), helpers: &d.helpers}
	return d, nil
}

func newClient(options Options) (*client.Client, error) {
	transport := &http.Transport{MaxResponseHeaderBytes: maxHeader}
	how := []client.Opt{client.FromEnv}
	if options.Dial != nil {
		plain := &http.Client{Transport: transport, CheckRedirect: client.CheckRedirect}
		how = []client.Opt{client.WithHTTPClient(plain), client.WithHostFromEnv(), client.WithVersionFromEnv()}
	}
	if options.Host != "" {
		how = append(how, client.WithHost(options.Host))
	}
	c, err := client.NewClientWithOpts(append(how, client.WithAPIVersionNegotiation())...)
	if err != nil {
		return nil, err
	}
	if options.Dial != nil { // after the host, whose option sets these fields
		transport.DialContext, transport.Proxy = limitHeaders(options.Dial), nil
	}
	return c, limitAnswers(c)
}

// Close closes the connection to the engine.
func (d *Engine) Close() error { return d.client.Close() }

// ping checks that the engine answers. If it does not, the error is an engine.Failure that says what to do.
func (d *Engine) ping(ctx context.Context) error {
	within, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	pong, err := d.client.Ping(within)
	if err != nil && within.Err() == nil { // it is not just slow
		d.forgetMachine() // the engine may have other settings when it is back, or the machine other memory
	}
	switch {
	case err == nil:
		return d.negotiate(pong)
	case isForbidden(err):
		return forbidden(callPing, err)
	case strings.Contains(err.Error(), "tls: "):
		return &engine.Failure{Cause: err, Call: callPing, End: jobend.EngineGone, What: "The builder and the agent of the container engine do not trust each other's keys.",
			Advice: "Give both the keys that one run of 'iglu-builder agent keys' has made (IGLU_AGENT_KEYS)."}
	default:
		return &engine.Failure{Cause: err, Call: callPing, End: jobend.EngineGone, What: "The container engine does not answer.",
			Advice: "Start it, or set DOCKER_HOST to where it listens."}
	}
}

// negotiate sets the version of the API that the engine supports. The client would do that itself at its first call. But
// several of its methods read the version before that, and without a lock: so the first call is always a ping. For the
// same reason it cannot be negotiated again. The error wraps ErrReplaced if that is necessary.
func (d *Engine) negotiate(pong types.Ping) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case pong.APIVersion == "" || pong.APIVersion == d.negotiated: // if it is empty, the answer is not from an engine
	case d.negotiated == "":
		d.client.NegotiateAPIVersionPing(pong)
		d.negotiated = pong.APIVersion
	default:
		return &engine.Failure{Cause: fmt.Errorf("%w: %s, and before %s", ErrReplaced, pong.APIVersion, d.negotiated), Call: callPing, End: jobend.EngineGone,
			What: "The container engine was replaced by another version.", Advice: "Send the job again."}
	}
	return nil
}

// ErrReplaced is the error of a ping if the engine has another version of the API than at the first ping, for example
// because it was upgraded. It may not support the version that is used. Reopen helps.
var ErrReplaced = errors.New("the engine has another version of its API")

// Reopen returns an engine like d, which negotiates the version of the API anew.
func (d *Engine) Reopen() (*Engine, error) {
	fresh, err := New(d.options, d.log)
	if err != nil {
		return nil, err
	}
	d.log.Info("the container engine was replaced by another version: connecting anew")
	file, _ := d.program.known()
	fresh.UseProgram(file, d.program.madeFor())
	fresh.network.subnets.Store(d.network.subnets.Load()) // jobs of other builders may still be there
	return fresh, nil
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

// readyTimeout is how long the calls of Ready after the ping may take.
const readyTimeout = 5 * time.Second

// Ready implements engine.Engine. It accepts that the image is missing if no pull of it has failed, and that the network
// is missing if the builder creates it. Afterwards, IsOfJobs knows the network of the instance's other builders.
func (d *Engine) Ready(ctx context.Context) error {
	if _, err := d.Info(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if d.options.Network == "" {
		d.network.look(ctx)
	}
	if err := d.imageFailure(d.image.Check(ctx)); err != nil {
		return err
	}
	if d.options.Network == "" {
		return nil
	}
	_, err := d.network.ensure(ctx, nameLock{}) // needs no lock: it does not create a network that is set
	return callFailure(callNetwork, err)
}

// Image implements engine.Engine.
func (d *Engine) Image(ctx context.Context, progress func(line string)) (engine.Image, error) {
	found, err := d.image.Ensure(ctx, progress)
	if err == nil {
		err = checkNames(found.ID, found.Digest, found.Platform)
	}
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

// IsOfJobs reports whether a client can be a job: whether its address belongs to the network that jobs are connected to.
// server is the address at which it has connected. IsOfJobs returns false as long as that network is not known.
func (d *Engine) IsOfJobs(client, server netip.Addr) bool { return d.network.contains(client, server) }

// nameOf returns the name of a volume or a network of an instance.
func nameOf(instance, what string) string { return "iglu-builder-" + instance + "-" + what }

// forget discards what is known about the engine, because something may be missing that existed before. It is looked up
// again when it is needed.
func (d *Engine) forget() {
	d.program.forget()
	d.forgetMachine()
}

// forgetMachine makes the next call of describe ask the engine again.
func (d *Engine) forgetMachine() {
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

// Calls are the values of engine.Failure.Call: the calls of the engine that can fail.
var Calls = []string{callPing, callPull, callNetwork, callStore, "attach to the container", "describe its machine", "list containers", "list volumes",
	"look for the job image", "make the container", "pass on the container's output", "remove a volume",
	"remove the container", "start the container", "stop the container", "take the builder's program", "wait for the container"}

// callFailure turns an error of the engine into an engine.Failure with sentences for the client. It returns nil and an
// engine.Failure unchanged. what must be one of Calls, because it is a metric's label.
func callFailure(what string, err error) error {
	if _, ok := errors.AsType[*engine.Failure](err); err == nil || ok {
		return err
	}
	if isForbidden(err) {
		return forbidden(what, err)
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

// isForbidden reports whether an error is that the builder may not connect to the engine's socket.
func isForbidden(err error) bool {
	return errors.Is(err, syscall.EACCES) && client.IsErrConnectionFailed(err)
}

// forbidden returns the Failure of a call for such an error.
func forbidden(call string, err error) *engine.Failure {
	return &engine.Failure{Cause: err, Call: call, End: jobend.EngineGone, What: "The builder has no permission to use the container engine.",
		Advice: "Run it as a user of the group that the engine's socket belongs to (with docker-compose, set DOCKER_GID to that group's number)."}
}

// isLost reports whether an error is the end of a connection to the engine. The engine's client keeps only the text of
// some errors.
func isLost(err error) bool {
	return client.IsErrConnectionFailed(err) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		strings.HasSuffix(err.Error(), io.EOF.Error())
}
