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

	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/stores"
)

// Options say how jobs are run.
type Options struct {
	// MaxJobs is how many run at once; 0 is one.
	MaxJobs int
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
	// Observer counts; nil is nobody.
	Observer Observer
}

// A Builder runs jobs on an engine. Any number of builders of one instance can use an engine. Its
// methods are safe for concurrent use.
type Builder struct {
	id        string // labels its containers
	engine    engine.Engine
	options   Options
	stores    *stores.Pool
	logs      *joblog.Store
	records   Records
	log       *slog.Logger
	leftovers *leftovers

	slots      chan struct{}  // holds an item for each job, or client that may send one
	background sync.WaitGroup // for jobs, and what is done after their end is known

	nix nixVersions

	mu      sync.Mutex
	running map[string]*Job // by their ids
}

// New returns a builder on an engine, which need not be running yet. The logs of jobs are kept in
// logs, and what else outlives them in records.
func New(e engine.Engine, options Options, logs *joblog.Store, records Records, log *slog.Logger) *Builder {
	if options.Observer == nil {
		options.Observer = nobody{}
	}
	options.JobUser = cmp.Or(options.JobUser, UserNix)
	options.MaxJobs = cmp.Or(options.MaxJobs, 1)
	b := &Builder{
		id:      strings.ToLower(rand.Text()),
		engine:  e,
		options: options,
		stores:  stores.New(e, options.Stores, log),
		logs:    logs,
		records: records,
		log:     log,
		slots:   make(chan struct{}, options.MaxJobs),
		running: make(map[string]*Job),
	}
	b.leftovers = &leftovers{engine: e, builder: b.id, isRunning: b.isRunning, seen: make(map[string]sighting)}
	return b
}

// Acquire takes a slot for a job. ok is false if all are taken. Release gives it back, and does so
// once.
func (b *Builder) Acquire() (release func(), ok bool) {
	select {
	case b.slots <- struct{}{}:
		return sync.OnceFunc(func() { <-b.slots }), true
	default:
		return nil, false
	}
}

// Healthy returns nil while the engine answers.
func (b *Builder) Healthy(ctx context.Context) error {
	_, err := b.engine.Info(ctx)
	return err
}

// Ready returns nil while a job could run, and else says why not in sentences for people.
func (b *Builder) Ready(ctx context.Context) error {
	err := b.engine.Ready(ctx)
	if f, ok := errors.AsType[*engine.Failure](err); ok {
		b.log.Debug("not ready", "err", err)
		return errors.New(f.What + " " + f.Advice)
	}
	return err
}

// checkTimeout bounds the questions at the start, which a busy Podman takes seconds to answer.
const checkTimeout = 15 * time.Second

// Check returns why jobs can never run as the builder is set up, or nil as far as the engine
// can be asked.
func (b *Builder) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	_, err := b.engine.Info(ctx)
	if f, ok := errors.AsType[*engine.Failure](err); ok && f.Call == "" {
		return err // it is not the engine that fails
	}
	return nil
}

// Tend brings the job image onto the engine, so that the first job need not wait for it, looks
// after the stores, and removes what dead builders leave, until ctx ends.
func (b *Builder) Tend(ctx context.Context) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() { b.sweepAtTimes(ctx) })
	if _, err := b.engine.Image(ctx, func(line string) { b.log.Info(line) }); err != nil && ctx.Err() == nil {
		b.log.Warn("cannot provide the job image; each job tries again", "err", err)
	}
	b.stores.Maintain(ctx, b.runTask)
}

// Stores returns the Nix stores that outlive jobs.
func (b *Builder) Stores() *stores.Pool { return b.stores }

// Close waits until what is left of the last jobs is removed, and frees the connection to the
// engine. No job may be running.
func (b *Builder) Close() error {
	b.background.Wait()
	return b.engine.Close()
}

// isRunning reports whether a job of this builder has not ended.
func (b *Builder) isRunning(job string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.running[job] != nil
}

// engineFailed counts a failure of the engine.
func (b *Builder) engineFailed(err error) {
	if f, ok := errors.AsType[*engine.Failure](err); ok && f.Call != "" {
		b.options.Observer.EngineFailed(f.Call)
	}
}
