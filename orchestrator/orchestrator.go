// Package orchestrator runs jobs: one container each, from a Request to a Verdict.
//
// A Builder takes requests and returns Jobs, each with an id, a log to follow, and an end to wait for
// (job.go). How a job's container is made and seen to its end, on any engine, is in run.go and
// container.go. What dead builders leave on the engine is removed by those that live (leftovers.go).
package orchestrator

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/nodes"
	"iglu.sh/builder/orchestrator/stores"
)

// Options say how jobs are run.
type Options struct {
	// MaxJobs is how many run at once; 0 is one. MaxQueued is how many wait for their turn beside
	// them.
	MaxJobs, MaxQueued int
	// Stores say what outlives a job of its Nix store.
	Stores stores.Options
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
	// Limits bound what each job takes, and Deadlines how long.
	Limits    Limits
	Deadlines Deadlines
	// PublicURL is the address of the builder's page, without a slash at its end; empty: not known.
	PublicURL string
	// Cluster says where jobs run; nil: on the engine that the builder is made with.
	Cluster *Cluster
	// DrainQueue has Drain run the jobs that wait, too.
	DrainQueue bool
	// RetryLost has a job whose node of the cluster is lost run once more.
	RetryLost bool
	// BuildID is that of the program that the engine puts into containers; see internal/buildid.
	BuildID string
	// Observer counts; nil is nobody.
	Observer Observer
}

// A Builder runs jobs on an engine. Any number of builders of one instance can use an engine. Its
// methods are safe for concurrent use.
type Builder struct {
	id      string // labels its containers
	options Options
	logs    *joblog.Store
	records Records
	log     *slog.Logger
	local   *node    // the one engine; nil: it uses a cluster
	cluster *cluster // nil: it uses one engine

	queue      *nodes.Queue
	background sync.WaitGroup // for jobs, and what is done after their end is known

	nix nixVersions

	mu      sync.Mutex
	nodes   map[*nodes.Node]*node
	running map[string]*Job // by their ids; also those that wait for a slot
	changed *sync.Cond      // on mu: a job has left running
}

// New returns a builder on an engine, which need not be running yet; or on the cluster that the options
// name, if e is nil. The logs of jobs are kept in logs, and what else outlives them in records.
func New(e engine.Engine, options Options, logs *joblog.Store, records Records, log *slog.Logger) *Builder {
	if options.Observer == nil {
		options.Observer = nobody{}
	}
	options.JobUser = cmp.Or(options.JobUser, UserNix)
	options.MaxJobs = cmp.Or(options.MaxJobs, 1)
	b := &Builder{
		id:      strings.ToLower(rand.Text()),
		options: options,
		logs:    logs,
		records: records,
		log:     log,
		queue:   nodes.NewQueue(options.MaxQueued),
		nodes:   make(map[*nodes.Node]*node),
		running: make(map[string]*Job),
	}
	b.changed = sync.NewCond(&b.mu)
	if e != nil {
		b.addLocal(e)
	} else {
		b.cluster = b.newCluster()
	}
	return b
}

// Acquire takes a place for a job, in a slot or in the line of those that wait for one. ok is false if
// all are taken. release gives it back, and may be called more than once.
func (b *Builder) Acquire() (release func(), ok bool) { return b.queue.Admit() }

// Load returns how many jobs have a slot, and how many wait for one.
func (b *Builder) Load() (running, waiting int) { return b.queue.Load() }

// Slots returns how many jobs can have a slot at once.
func (b *Builder) Slots() int { return b.queue.Slots() }

// Drain ends the jobs that wait for a slot, now and later, if they are not to run as well, and returns when
// all others have ended. When ctx ends, it cancels them.
func (b *Builder) Drain(ctx context.Context) {
	if !b.options.DrainQueue {
		b.queue.Close()
	}
	defer context.AfterFunc(ctx, func() {
		b.queue.Close()
		b.cancelAll(jobend.Shutdown)
	})()
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.running) > 0 {
		b.changed.Wait()
	}
}

// cancelAll cancels all jobs.
func (b *Builder) cancelAll(cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, j := range b.running {
		j.Cancel(cause)
	}
}

// errNoNode is why no job can run on a cluster.
var errNoNode = &engine.Failure{End: jobend.EngineGone, What: "No node is there.", Advice: "Start one, or set IGLU_NODES to where they are."}

// Healthy returns nil while the engine answers, or any of the cluster.
func (b *Builder) Healthy(ctx context.Context) error {
	if b.local == nil {
		if b.cluster.isEmpty() {
			return errNoNode
		}
		return nil
	}
	_, err := b.local.engine.Info(ctx)
	return err
}

// Ready returns nil while a job could run, and else says why not in sentences for people.
func (b *Builder) Ready(ctx context.Context) error {
	if b.cluster != nil {
		return b.cluster.ready(ctx)
	}
	err := b.local.engine.Ready(ctx)
	if err != nil {
		b.log.Debug("not ready", "err", err)
	}
	return sentence(err)
}

// checkTimeout bounds the questions at the start, which a busy Podman takes seconds to answer.
const checkTimeout = 15 * time.Second

// Check returns why jobs can never run as the builder is set up, or nil as far as the engine
// can be asked.
func (b *Builder) Check(ctx context.Context) error {
	if b.local == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	_, err := b.local.engine.Info(ctx)
	if f, ok := errors.AsType[*engine.Failure](err); ok && f.Call == "" {
		return err // it is not the engine that fails
	}
	return nil
}

// Maintain brings the job image onto the engine, so that the first job need not wait for it, looks
// after the stores, and removes what dead builders leave, until ctx ends; on each node of a cluster.
func (b *Builder) Maintain(ctx context.Context) {
	if b.local != nil {
		b.local.maintain(ctx)
		return
	}
	b.cluster.follow(ctx)
}

// StoresSize returns how many Nix stores outlive jobs, and how many bytes they take together.
func (b *Builder) StoresSize() (stores int, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.nodes {
		more, size := n.stores.Size()
		stores, bytes = stores+more, bytes+size
	}
	return stores, bytes
}

// Close cancels the jobs that still run, waits until what is left of the last is removed, and frees the
// connection to the engine. No job may be started any more.
func (b *Builder) Close() error {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	b.Drain(now)
	b.background.Wait()
	if b.local == nil {
		return nil
	}
	return b.local.engine.Close()
}

// engineFailed counts a failure of the node's engine, and notes that it does not answer.
func (n *node) engineFailed(err error) {
	f, ok := errors.AsType[*engine.Failure](err)
	if !ok || f.Call == "" {
		return
	}
	n.b.options.Observer.EngineFailed(n.name, f.Call)
	if n.cluster != nil && f.End == jobend.EngineGone {
		n.doubt(f)
	}
}
