package orchestrator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/docker/go-units"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/internal/tick"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/schemas"
)

// A run is the state of a job from its acceptance to its end. Only the job's goroutine uses it.
type run struct {
	b        *Builder
	id       string
	request  *schemas.Request
	log      *slog.Logger // the server's log, without the job's secrets
	lines    *joblog.Log
	redactor *redact.Redactor
	tracker  *tracker
	node     *node  // on which the job runs; nil while it waits for a slot
	release  func() // gives up its slot or its place in the queue; may be called more than once

	info  engine.Info
	image engine.Image
	env   jobenv.Job

	hasWaited    bool // it has waited for a slot
	withoutStore bool // the job has the image's own store, which is removed with its container
	started      bool // a container may have been started, since the job got its present slot
	hasRun       bool // it has run before, on a node that was lost
	slot         int  // how many slots it has had before the present one
}

// say adds a line of the builder's own to the job's log.
func (r *run) say(line string) { r.lines.Printf("iglu: %s", line) }

// do runs the job in a container, and returns its verdict.
func (r *run) do(ctx context.Context) Verdict {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := r.b.options.Deadlines.watch(cancel)
	defer watchdog.stop()
	code, err := r.inContainer(ctx, watchdog)
	if _, isLog := errors.AsType[*logError](err); isLog {
		return Verdict{Err: logFailure(err)} // whatever else failed, failed because of that
	}
	if err != nil && ctx.Err() != nil { // likewise
		return Verdict{Err: cancelled(context.Cause(ctx))}
	}
	r.node.engineFailed(err)
	return Verdict{ExitCode: code, Err: r.node.named(err)}
}

// inContainer runs the job in a container, and returns its exit code. The code is also returned with an error
// that explains why the job ended.
func (r *run) inContainer(ctx context.Context, watchdog *watchdog) (code int, err error) {
	r.env = jobOf(r.request, r.b.options)
	if r.env.System, err = systemFor(r.request.Arch, r.node.machine()); err != nil {
		return 0, err
	}
	if r.info, err = r.node.engine.Info(ctx); err != nil {
		return 0, err
	}
	ctx, stopWatching := r.node.watch(ctx)
	defer stopWatching()
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), errHangs) {
			err = errHangs
		}
	}()
	if r.image, err = r.node.engine.Image(ctx, r.tracker.pulling(r.say)); err != nil {
		return 0, err
	}
	r.tracker.creates(r.image.Digest)
	r.say(fmt.Sprintf("job image %s, %s", r.image.Ref, r.image.Digest))
	a := r.attempt(ctx, watchdog)
	for tries := 1; a.isStoreUnusable(); tries++ {
		if err := r.abandon(ctx, a, tries < maxStores); err != nil {
			return 0, err
		}
		a = r.attempt(ctx, watchdog)
	}
	grown := r.tracker.storeBytes()
	n := r.node                                                   // a job whose node is lost has another one then
	r.b.background.Go(func() { n.cleanUp(ctx, a, grown, r.log) }) // only a job with the same store waits for that
	if a.ran {
		r.tracker.begin(schemas.Done)
	}
	return a.code, a.err
}

// An attempt is one container of a job, with its store and its result.
type attempt struct {
	lease     *stores.Lease    // nil if the store is removed with the container
	container engine.Container // nil if it was not created
	ran       bool             // the start of the container was tried
	fresh     bool             // no earlier job has used the store
	opened    time.Time        // since when the engine may fill the store; zero if the store is removed with the container
	end       *jobwire.End     // what the program in the container reported at its end; nil if nothing
	code      int              // the container's exit code
	err       error            // why the job did not end by itself; nil if it did
}

func (r *run) attempt(ctx context.Context, watchdog *watchdog) *attempt {
	a := new(attempt)
	r.env.EventsToken = rand.Text()
	if a.err = r.create(ctx, a); a.err != nil {
		return a
	}
	if a.err = ctx.Err(); a.err != nil {
		return a
	}
	r.log.Debug("container created", "container", a.container.ID())
	a.ran, r.started = true, true
	a.code, a.end, a.err = r.follow(ctx, a, watchdog)
	// Earlier jobs may have replaced Nix in their store, so only a fresh store shows the image's version.
	if version := r.tracker.nixVersion(); version != "" && a.fresh {
		r.b.nix.set(r.image.ID, version)
	}
	return a
}

// isStoreUnusable reports whether the job could not begin because earlier jobs have damaged its store.
func (a *attempt) isStoreUnusable() bool {
	return a.err == nil && a.end != nil && a.end.UnusableStore && a.lease != nil
}

// maxStores is how many kept stores a job tries. Earlier jobs may have damaged the first one. The second is
// new, so if it fails too, the cause is another.
const maxStores = 2

// abandon removes an attempt's container and its store. If again is true, the next attempt has a new store.
// Otherwise, or if something still uses the old store, it has the image's own.
func (r *run) abandon(ctx context.Context, a *attempt, again bool) error {
	r.node.remove(ctx, a.container, r.log)
	err := a.lease.Discard(ctx)
	a.lease.Release()
	switch {
	case err == nil && again:
		r.say("the store is removed, and the job begins again with a fresh one")
		return nil
	case err == nil, errors.Is(err, engine.ErrInUse):
		r.say("the job begins again with the image's own Nix store, which is removed with the job")
		r.withoutStore = true
		return nil
	}
	return storeFailure(err)
}

// cleanUp removes an attempt's container and returns its store, which has grown by grown bytes. ctx may have
// ended.
func (n *node) cleanUp(ctx context.Context, a *attempt, grown int64, log *slog.Logger) {
	if a.container != nil {
		n.remove(ctx, a.container, log)
	}
	if a.lease != nil {
		a.lease.Return(ctx, grown)
	}
}

// remove removes a container. One that cannot be removed now is a leftover, which sweep removes later.
func (n *node) remove(ctx context.Context, c engine.Container, log *slog.Logger) {
	if err := c.Remove(context.WithoutCancel(ctx)); err != nil {
		log.Warn("cannot remove the container", "container", c.ID(), "err", err)
		n.engineFailed(err)
	}
}

// storeFailure returns the failure of a job whose store cannot be provided.
func storeFailure(err error) error {
	if f, ok := errors.AsType[*engine.Failure](err); ok {
		return f
	}
	return &engine.Failure{Cause: err, What: "The builder cannot keep what it knows of the job's Nix store.",
		Advice: "Make room on the disk of its folder (IGLU_STATE_DIR), and send the job again."}
}

// retryInterval is how often a job tries to get a store that a job of another builder uses.
const retryInterval = time.Second

// create creates the container of an attempt with its store. If other jobs use the store for longer than the
// job may wait, the container has the image's own.
func (r *run) create(ctx context.Context, a *attempt) error {
	key, ok, err := r.node.stores.KeyOf(storeOf(r.request, r.b.options, r.info.Sandboxed, r.image))
	if err != nil {
		return storeFailure(err)
	}
	if ok && !r.withoutStore {
		err = r.createInStore(ctx, a, key)
		if !errors.Is(err, stores.ErrTaken) {
			return err
		}
		r.say(fmt.Sprintf("other jobs have had this job's Nix store for %s: this job begins with the image's own store, which is removed with the job",
			r.b.options.Stores.Wait))
	}
	a.lease, a.fresh = nil, true
	a.container, err = r.node.engine.Create(ctx, r.spec(r.containerName(), nil))
	return err
}

// createInStore creates the container of an attempt with a kept store. The error is stores.ErrTaken if other
// jobs use the store for too long.
func (r *run) createInStore(ctx context.Context, a *attempt, key stores.Key) (err error) {
	waiting, cancel := context.WithTimeoutCause(ctx, r.b.options.Stores.Wait, stores.ErrTaken)
	defer cancel()
	if a.lease, err = r.node.stores.Lease(waiting, key, r.say); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			a.lease.Release()
			a.lease = nil
		}
	}()
	for tries := 0; ; tries++ {
		if err := a.lease.Open(ctx, r.say); err != nil {
			return storeFailure(err)
		}
		a.fresh, a.opened = a.lease.Fresh(), time.Now()
		a.container, err = r.node.engine.Create(ctx, r.spec(a.lease.Container(), a.lease))
		if !errors.Is(err, engine.ErrInUse) {
			return err
		}
		if tries == 1 {
			r.say("a job of another builder has this job's Nix store: waiting for it")
		}
		r.node.sweep(waiting) // it may be a leftover
		select {
		case <-time.After(retryInterval):
		case <-waiting.Done():
			return context.Cause(waiting)
		}
	}
}

// containerName returns the name of a container without a kept store. It is different for each slot of the job,
// because the container of an earlier slot may still exist.
func (r *run) containerName() string {
	name := "iglu-job-" + r.b.options.Stores.Instance + "-" + r.id
	if r.slot > 0 {
		name += fmt.Sprint("-", r.slot+1)
	}
	return name
}

// spec returns the job's container. lease is nil if it has no kept store.
func (r *run) spec(name string, lease *stores.Lease) engine.Spec {
	env := r.env
	env.NixVersion = r.b.nix.of(r.image.ID)
	spec := r.node.spec(name, r.info, &env)
	spec.Image = r.image.ID
	spec.Labels[engine.LabelJob] = r.id
	if lease != nil {
		env.Store = lease.State()
		spec.Store, spec.Fresh = lease.Volume(), lease.Fresh()
	}
	spec.Env = env.Environ()
	if lease != nil {
		spec.Env = append(spec.Env, "XDG_CACHE_HOME="+jobenv.StoreCache)
	}
	return spec
}

// spec returns what all containers of the builder have in common on the node, and completes env, their
// environment.
func (n *node) spec(name string, info engine.Info, env *jobenv.Job) engine.Spec {
	b := n.b
	limits := b.options.Limits
	spec := engine.Spec{
		Name:   name,
		Labels: map[string]string{engine.LabelBuilder: b.id},
		Memory: limits.memory(info.Memory, b.options.MaxJobs),
		CPUs:   limits.cpus(info.CPUs, b.options.MaxJobs),
		PIDs:   limits.PIDs,
	}
	env.BuildID = n.buildID
	env.CPUs = strconv.Itoa(int(math.Ceil(spec.CPUs)))
	if info.Sandboxed {
		addStoreConfig(env, nixSandboxed)
	} else {
		addStoreConfig(env, nixUnsandboxed)
	}
	return spec
}

// nixVersions are the versions of Nix in images, by the images' IDs, as jobs have reported them.
type nixVersions struct{ byImage sync.Map }

// of returns the version in an image, or "" if it is not known.
func (v *nixVersions) of(imageID string) string {
	version, _ := v.byImage.Load(imageID)
	text, _ := version.(string)
	return text
}

func (v *nixVersions) set(imageID, version string) { v.byImage.Store(imageID, version) }

const (
	// watchInterval is how often an engine is pinged while a job runs. After mostSilent missed pings in a
	// row, the engine hangs. By then the job has ended, because its builder's heartbeat, which is sent
	// through the engine, did not reach it.
	watchInterval = 10 * time.Second
	mostSilent    = 6
)

// errHangs is the failure of a job whose engine no longer answers, so that the end of the job's container is not
// known.
var errHangs = &engine.Failure{End: jobend.EngineGone, Call: "answer", What: "The container engine does not answer any more.",
	Advice: "Send the job again when it does."}

// watch returns a context that ends with ctx, or with errHangs when the engine hangs. The caller must call stop.
func (n *node) watch(ctx context.Context) (watched context.Context, stop func()) {
	watched, cancel := context.WithCancelCause(ctx)
	silent := 0
	stopAsking := tick.Every(watchInterval, func() {
		if _, err := n.engine.Info(watched); err == nil {
			silent = 0
		} else if silent++; silent == mostSilent {
			cancel(errHangs)
		}
	})
	return watched, func() {
		cancel(nil)
		stopAsking()
	}
}

// outOfMemory returns the failure of a job that ran out of memory.
func (r *run) outOfMemory() error {
	memory := r.b.options.Limits.memory(r.info.Memory, r.b.options.MaxJobs)
	return &engine.Failure{End: jobend.OutOfMemory, What: "The job ran out of memory.",
		Advice: fmt.Sprintf("It may use %s (IGLU_JOB_MEMORY).", units.BytesSize(float64(memory)))}
}
