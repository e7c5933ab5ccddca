// Package orchestrator runs jobs, each in a container of its own.
//
// A Builder accepts requests and returns a Job for each. A Job has an id, a log that can be followed, and a last
// message to wait for (job.go). A job waits for a slot, and then runs on the one engine, or on a node of a cluster
// (cluster.go). The files run.go and container.go create the job's container and follow it to its end. A tracker
// collects what is known about the job while it runs (tracker.go), and the Verdict says how it ended (verdict.go).
//
// A builder that was killed leaves containers on the engine. The other builders of its instance remove them
// (leftovers.go).
package orchestrator

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"maps"
	"slices"
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
	// MaxJobs is how many jobs run at once; 0 means one. MaxQueued is how many further jobs may wait.
	MaxJobs, MaxQueued int
	// Stores say which Nix stores are kept between jobs.
	Stores stores.Options
	// JobUser is the user that runs jobs; empty means UserNix.
	JobUser JobUser
	// FetchTimeout is how long git may take to fetch a job's source.
	FetchTimeout time.Duration
	// GitDepth is how many commits of a repository's history a job fetches; 0 for all.
	GitDepth int
	// Push says how jobs push to caches.
	Push Push
	// Nix are the operator's settings of Nix for all jobs.
	Nix NixSettings
	// Limits are the most that each job may use, and Deadlines the longest that it may take.
	Limits    Limits
	Deadlines Deadlines
	// PublicURL is the address of the builder's page, without a slash at its end; empty: not known.
	PublicURL string
	// Cluster has the nodes on which jobs run; nil: they run on the engine that New gets.
	Cluster *Cluster
	// DrainQueue makes Drain run the waiting jobs, too.
	DrainQueue bool
	// RetryLost makes a job run once more if its node of the cluster is lost.
	RetryLost bool
	// BuildID is the build ID of the program that the engine puts into containers; see internal/buildid.
	BuildID string
	// Observer counts events for the metrics. It may be nil.
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
	local   *node    // the one engine; nil with a cluster
	cluster *cluster // nil with one engine

	queue      *nodes.Queue
	background sync.WaitGroup // for jobs, and for the cleanup after their end

	nix nixVersions

	mu      sync.Mutex
	nodes   map[*nodes.Node]*node
	running map[string]*Job // by id; includes jobs that wait for a slot
	changed *sync.Cond      // uses mu; signals that a job was removed from running
}

// New returns a builder that runs jobs on an engine, which need not be running yet. If e is nil, it runs them on the
// cluster of the options. The logs of jobs are written to logs, and their records to records.
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

// Acquire acquires a slot for a job, or a place in the queue for one. ok is false if the queue is full. release gives
// the slot or place back, and may be called more than once.
func (b *Builder) Acquire() (release func(), ok bool) { return b.queue.Admit() }

// Load returns how many jobs have a slot, and how many wait for one.
func (b *Builder) Load() (running, waiting int) { return b.queue.Load() }

// Slots returns how many jobs can have a slot at once.
func (b *Builder) Slots() int { return b.queue.Slots() }

// Drain waits until all jobs have ended. It cancels the jobs that wait for a slot, unless DrainQueue is set. When ctx
// ends, it cancels all jobs.
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
		j.cancel(cause)
	}
}

// errNoNode is the error of a cluster without nodes.
var errNoNode = &engine.Failure{End: jobend.EngineGone, What: "The cluster has no node.", Advice: "Start one, or set IGLU_NODES to the addresses of the nodes."}

// Healthy returns nil while the engine answers, or the engine of any node of the cluster.
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

// Ready returns nil while a job could run. Otherwise the error says why not, in sentences for people.
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

// checkTimeout is how long Check may take. A busy Podman needs seconds to answer.
const checkTimeout = 15 * time.Second

// Check returns an error if no job can ever run with the builder's settings. It returns nil if the engine does not
// answer, and with a cluster.
func (b *Builder) Check(ctx context.Context) error {
	if b.local == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	_, err := b.local.engine.Info(ctx)
	if f, ok := errors.AsType[*engine.Failure](err); ok && f.Call == "" {
		return err // not a failure of the engine
	}
	if err == nil {
		b.local.engine.Ready(ctx) // so that the addresses of other builders' jobs are known before clients are served
	}
	return nil
}

// Maintain does the builder's background work until ctx ends. On the engine, or on each node of a cluster, it pulls the
// job image, so that the first job need not wait for it; maintains the stores; and removes leftover containers.
func (b *Builder) Maintain(ctx context.Context) {
	if b.local != nil {
		b.local.maintain(ctx)
		return
	}
	b.cluster.follow(ctx)
}

// StoresSize returns how many Nix stores are kept between jobs, and how many bytes they take together.
func (b *Builder) StoresSize() (stores int, bytes int64) {
	b.mu.Lock()
	all := slices.Collect(maps.Values(b.nodes))
	b.mu.Unlock()
	for _, n := range all { // without the lock, because that reads files
		more, size := n.stores.Size()
		stores, bytes = stores+more, bytes+size
	}
	return stores, bytes
}

// Close cancels the jobs that still run, waits until their containers are removed, and closes the connection to the
// engine. No job may be started any more.
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
		n.suspect(f)
	}
}
