package orchestrator

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	containertypes "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"iglu.sh/builder/images"
	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/schemas"
)

// Labels of everything that a builder makes on an engine.
const (
	labelInstance = "sh.iglu.builder.instance" // the builder's instance name
	labelJob      = "sh.iglu.builder.job"      // the job's id; on containers of jobs
)

const (
	// pingTimeout bounds the question whether the engine answers at all.
	pingTimeout = 3 * time.Second
	// callTimeout bounds the calls that make and start a container. They take
	// milliseconds; on an engine whose disk is busy, seconds.
	callTimeout = 2 * time.Minute
)

// Options say how a Docker engine is used.
type Options struct {
	// Host is where the engine listens, as in DOCKER_HOST; empty for what that says.
	Host string
	// Instance is the name under which everything on the engine is labelled. Two
	// builders on one engine have different ones.
	Instance string
	// Image is the image that jobs run in, and Pull says when it is pulled.
	Image string
	Pull  images.Policy
	// Stores say what outlives a job of its Nix store.
	Stores Stores
	// Network is the name of the engine's network that jobs are connected to;
	// empty for a bridge of the builder's own.
	Network string
	// JobUser is who jobs run as; empty is UserNix.
	JobUser JobUser
	// FetchTimeout bounds all that git does for a job's source.
	FetchTimeout time.Duration
	// GitDepth is how many commits of a repository's history a job fetches; 0 for all.
	GitDepth int
	// Push says how jobs push to caches.
	Push Push
	// Nix is what the operator sets of Nix for all jobs.
	Nix NixSettings
	// Program is the path of the statically linked Linux program that runs inside
	// the containers: this program itself.
	Program string
	// Limits bound what each job takes, and Deadlines how long.
	Limits Limits
	// Sandbox says when Nix is to use its own, and SandboxUnsafe that it may also where
	// that opens a way out of the container.
	Sandbox       Sandbox
	SandboxUnsafe bool
	Deadlines     Deadlines
	// Observer counts; nil is nobody.
	Observer Observer

	// dial connects to the engine, where a test has one of its own.
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// docker is an engine that speaks Docker's API.
type docker struct {
	client  *client.Client
	options Options
	image   *images.Source
	ledger  ledger
	shift   *shift
	rested  chan struct{} // gets an item when a job has ended

	subnets  atomic.Pointer[[]netip.Prefix] // of the jobs' network; nil: not known yet
	settling sync.WaitGroup                 // for what is done after a job's end is known

	negotiating sync.Mutex
	negotiated  bool // which version of the API is spoken

	// Only whoever has the shift's turn uses these, and whoever starts the builder.
	machine *machine          // what the engine's machine is, once it is known
	program *program          // what is in the volume, once it is filled
	nix     map[string]string // the versions of Nix in images, by their IDs
	dirty   bool              // there may be containers on the engine that no job has any more
}

// NewDocker returns a Builder on the Docker engine that its options, or DOCKER_HOST and the
// other variables of Docker's clients, name. The engine need not be running yet. The logs of
// its jobs are kept in logs, and what else outlives them in records.
func NewDocker(options Options, logs *joblog.Store, records Records, log *slog.Logger) (*Builder, error) {
	how := []client.Opt{client.FromEnv, client.WithAPIVersionNegotiation()}
	if options.Host != "" {
		how = append(how, client.WithHost(options.Host))
	}
	if options.dial != nil {
		how = append(how, client.WithDialContext(options.dial))
	}
	c, err := client.NewClientWithOpts(how...)
	if err != nil {
		return nil, fmt.Errorf("configure the connection to the engine: %w", err)
	}
	if options.Observer == nil {
		options.Observer = nobody{}
	}
	options.JobUser = cmp.Or(options.JobUser, UserNix)
	engine := &docker{
		client:  c,
		options: options,
		image:   images.NewSource(c, options.Image, options.Pull),
		ledger:  ledger{options.Stores.Folder},
		shift:   newShift(),
		rested:  make(chan struct{}, 1),
		nix:     make(map[string]string),
		dirty:   true,
	}
	return &Builder{
		engine: engine, options: options, logs: logs, records: records, log: log, running: make(map[string]context.CancelCauseFunc),
	}, nil
}

func (d *docker) close() error {
	d.settling.Wait()
	return d.client.Close()
}

func (d *docker) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	pong, err := d.client.Ping(ctx)
	switch {
	case err == nil:
		d.negotiate(pong)
		return nil
	case strings.Contains(err.Error(), "permission denied"):
		return &failure{cause: err, call: callPing, end: jobend.EngineGone, what: "The builder may not talk to the container engine.",
			advice: "Run it as a user of the group that the engine's socket belongs to (with docker-compose, set DOCKER_GID to that group's number)."}
	default:
		return &failure{cause: err, call: callPing, end: jobend.EngineGone, what: "The container engine does not answer.",
			advice: "Start it, or set DOCKER_HOST to where it listens."}
	}
}

// negotiate has the engine's client use the version of the API that the engine speaks. The client
// does that by itself at its first call, but several of its methods look at the version before that,
// and without its lock: so whatever can be the first to use it pings first.
func (d *docker) negotiate(pong types.Ping) {
	d.negotiating.Lock()
	defer d.negotiating.Unlock()
	if !d.negotiated && pong.APIVersion != "" { // else it is something else that answers
		d.client.NegotiateAPIVersionPing(pong)
		d.negotiated = true
	}
}

func (d *docker) run(ctx context.Context, c container, stdout, stderr io.Writer, say func(string)) (code int, err error) {
	endShift, err := d.shift.job(ctx, func() { say("waiting for the last job's container and store to be put away") })
	if err != nil {
		return 0, err
	}
	// Nobody waits for what is to be done when the end is known, but the next job.
	after := []func(){d.rest, endShift}
	defer func() {
		d.settling.Go(func() {
			for _, do := range slices.Backward(after) {
				do()
			}
		})
	}()
	if err := d.ping(ctx); err != nil {
		return 0, err
	}
	ctx, stopWatching := d.watchEngine(ctx)
	defer stopWatching()
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), errHangs) {
			d.forget()
			err = errHangs
		}
	}()
	d.tidy(ctx, c.log)
	image, err := d.ensureImage(ctx, c.account.pulling(say))
	if err != nil {
		return 0, err
	}
	c.account.creates(image.Digest)
	say(fmt.Sprintf("job image %s, %s", d.options.Image, image.Digest))
	a := d.attempt(ctx, c, image, stdout, stderr, say)
	if d.wantsAnotherStore(ctx, a) {
		say("the store is removed, and the job begins again with a fresh one")
		if err := d.abandon(ctx, a, c.log); err != nil {
			return 0, engineFailure("remove the job's store", err)
		}
		a = d.attempt(ctx, c, image, stdout, stderr, say)
	}
	after = append(after, func() { d.settle(ctx, a, c) })
	if a.ran {
		c.account.begin(schemas.Done)
	}
	if a.err == nil && a.code == jobenv.ExitUnpushed {
		a.err = d.unpushed(ctx, a.id)
	}
	return a.code, a.err
}

// An attempt is a job's container with a store, and what came of it.
type attempt struct {
	lease  *lease // nil: it did not come so far, or the store goes with the job
	id     string // of the container; empty: it did not come so far
	ran    bool   // the container was to be started
	killed bool   // it did not end by itself
	code   int    // that it exited with
	err    error  // why the job did not end by itself; nil if it did
}

// attempt runs a job in a container with a store.
func (d *docker) attempt(ctx context.Context, c container, image images.Image, stdout, stderr io.Writer, say func(string)) *attempt {
	a := new(attempt)
	a.lease, a.err = d.takeStore(ctx, c, image, say)
	if a.err != nil {
		a.err, a.lease = engineFailure("provide the job's store", a.err), nil
		return a
	}
	begun := time.Now()
	c.told.NixVersion, c.told.Store = d.nix[image.ID], a.lease.state()
	if a.id, a.err = d.create(ctx, c, image.ID, a.lease); a.err != nil {
		d.forget()
		return a
	}
	log := c.log.With("container", a.id)
	if a.err = d.filled(a.lease, time.Since(begun), say); a.err != nil {
		return a
	}
	if a.err = ctx.Err(); a.err != nil {
		return a
	}
	log.Debug("container created")
	a.ran = true
	a.code, a.err = d.runCreated(ctx, a.id, stdout, stderr, say, c.account.hasSucceeded, log)
	// In a store that earlier jobs have had, they may have put another in its place.
	if version := c.account.nixVersion(); version != "" && (a.lease == nil || a.lease.fresh) {
		d.nix[image.ID] = version
	}
	if a.lease != nil && (a.err != nil || a.code == exitKilled) {
		// An engine that hangs would not answer that either.
		a.killed = errors.Is(context.Cause(ctx), errHangs) || d.wasKilled(ctx, a.id)
	}
	return a
}

// wantsAnotherStore reports whether a job has ended before it began, because of the store that
// earlier jobs have left.
func (d *docker) wantsAnotherStore(ctx context.Context, a *attempt) bool {
	return a.err == nil && a.code == jobenv.ExitUnusableStore && a.lease != nil && !a.lease.fresh && d.has(ctx, a.id, jobenv.UnusableStore)
}

// abandon removes an attempt's container and its store.
func (d *docker) abandon(ctx context.Context, a *attempt, log *slog.Logger) error {
	d.remove(ctx, a.id, log.With("container", a.id))
	return d.removeStore(ctx, a.lease.store)
}

// settle removes an attempt's container and gives its store back. ctx may have ended.
func (d *docker) settle(ctx context.Context, a *attempt, c container) {
	if a.id != "" {
		d.remove(ctx, a.id, c.log.With("container", a.id))
	}
	d.giveBack(ctx, a.lease, a.killed, c)
}

// exitKilled is the exit code of a container whose first process got SIGKILL.
const exitKilled = 128 + int(syscall.SIGKILL)

// maxUnpushed bounds in bytes what is read of a container's word on its push.
const maxUnpushed = 16 << 10

// unpushed returns what an ended container says that it could not push as a failure, or
// nil if it says nothing.
func (d *docker) unpushed(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	archive, stat, err := d.client.CopyFromContainer(ctx, id, jobenv.Unpushed)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return engineFailure("read what could not be pushed", err)
	}
	defer archive.Close()
	if !stat.Mode.IsRegular() { // the job's own doing
		return nil
	}
	file := tar.NewReader(archive)
	_, err = file.Next()
	var text []byte
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(file, maxUnpushed))
	}
	if err != nil {
		return engineFailure("read what could not be pushed", err)
	}
	return &failure{end: jobend.Unpushed,
		what:   "The build itself succeeded, but " + strings.ToValidUTF8(string(text), "\ufffd") + ".",
		advice: "The job's log says more. Send the job again to push the rest."}
}

func (d *docker) ensureImage(ctx context.Context, say func(string)) (images.Image, error) {
	image, err := d.image.Ensure(ctx, say)
	if pull, ok := errors.AsType[*images.PullError](err); ok {
		return image, &failure{
			end:    jobend.NoImage,
			call:   callPull,
			what:   fmt.Sprintf("The job image %s is not on the engine and cannot be pulled: %v.", pull.Ref, pull.Err),
			advice: "Check the image's name (IGLU_JOB_IMAGE) and that the engine reaches its registry.",
			cause:  err,
		}
	}
	return image, engineFailure("look for the job image", err)
}

// create makes the container of a job, and first what it needs on the engine. It does not
// end with ctx: an engine goes on with a call that is given up, and would make a container
// that nobody knows.
func (d *docker) create(ctx context.Context, c container, imageID string, l *lease) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	machine, err := d.ensureMachine(ctx, c.log)
	if err != nil {
		return "", engineFailure("describe its machine", err)
	}
	if err := machine.checkPlatform(); err != nil {
		return "", err
	}
	networkID := noNetwork
	if c.told.Upkeep == "" {
		if networkID, err = d.ensureNetwork(ctx); err != nil {
			return "", engineFailure("provide the jobs' network", err)
		}
	}
	volume, err := d.ensureProgram(ctx, imageID, c.log)
	if err != nil {
		return "", engineFailure("take the builder's program", err)
	}
	host := d.hostConfig(networkID, volume, machine)
	c.told.CPUs = strconv.Itoa(int(math.Ceil(float64(host.NanoCPUs) / 1e9)))
	sandboxed, err := d.usesSandbox(machine)
	switch {
	case err != nil:
		return "", err
	case sandboxed:
		allowSandbox(host)
		addStoreConfig(&c.told, nixSandboxed)
	default:
		confineCalls(host, machine)
		addStoreConfig(&c.told, nixUnsandboxed)
	}
	grace := int(stopGrace / time.Second)
	config := &containertypes.Config{
		Image:       imageID,
		Entrypoint:  []string{path.Join(jobenv.Mount, jobenv.Program), "job"},
		Cmd:         []string{},
		Env:         c.told.Environ(),
		User:        "0",
		WorkingDir:  "/",
		StopSignal:  "SIGTERM",
		StopTimeout: &grace, // for others who stop it: Podman would kill it at once
		Labels:      map[string]string{labelInstance: d.options.Instance, labelJob: c.job},
		Healthcheck: &containertypes.HealthConfig{Test: []string{"NONE"}},
		// The lifeline ends with our connection; see jobenv.Beat.
		OpenStdin: true, StdinOnce: true,
	}
	l.mount(config, host)
	created, err := d.client.ContainerCreate(ctx, config, host, nil, nil, d.name(c.job))
	if err != nil {
		return "", engineFailure("make the container", err)
	}
	return created.ID, nil
}

// name is the name of a thing of this builder's on the engine.
func (d *docker) name(what string) string { return "iglu-builder-" + d.options.Instance + "-" + what }

// engineFailure turns an error of the engine into one with a sentence for the
// client; nil stays nil, and an error that has a sentence keeps it. what is one of few
// constants: it is counted by.
func engineFailure(what string, err error) error {
	if _, ok := errors.AsType[*failure](err); err == nil || ok {
		return err
	}
	if isLost(err) {
		return &failure{cause: err, call: what, end: jobend.EngineGone,
			what:   fmt.Sprintf("The container engine went away when it was to %s.", what),
			advice: "Send the job again when it is back."}
	}
	return &failure{cause: err, call: what,
		what:   fmt.Sprintf("The container engine failed to %s: %v.", what, err),
		advice: "If a setting of the builder is not the cause, its log and the engine's say more."}
}

// isLost reports whether an error is the end of a connection to the engine. Of some errors
// the engine's client keeps but the text.
func isLost(err error) bool {
	return client.IsErrConnectionFailed(err) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		strings.HasSuffix(err.Error(), io.EOF.Error())
}
