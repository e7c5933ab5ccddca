// Package stores is the pool of Nix stores that outlive jobs: volumes of the engine, each mounted at
// /nix for one job after the other. It says which store a job has (class.go), lends it to one at a
// time (lease.go), and keeps all of them sound and below a limit (maintenance.go).
//
// Two builders of an instance share its stores. What keeps them apart is the engine: a store is used
// by a container of its name, and the engine refuses a second one; see Lease.Container. Whether a
// store is sound, the store itself says; see internal/jobrun.
package stores

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docker/go-units"

	"iglu.sh/builder/internal/lazyregexp"
	"iglu.sh/builder/orchestrator/engine"
)

// A Mode says which jobs share a Nix store, one after the other.
type Mode string

// The modes.
const (
	Ephemeral  Mode = "ephemeral"  // none: each has its own, gone with it
	Repository Mode = "repository" // those of one repository; others have their own
	Shared     Mode = "shared"     // all
)

// Options say how stores are kept.
type Options struct {
	// Instance is the name of the builders that share the stores.
	Instance string
	Mode     Mode
	// MaxBytes is how large all of them may be together.
	MaxBytes int64
	// Folder is where the builder keeps what it knows of them.
	Folder string
	// Wait is how long a job waits for a store that another job has.
	Wait time.Duration
}

var notInFolder = lazyregexp.New(`[^A-Za-z0-9.-]`)

// OfNode returns how the stores of one of several nodes are kept, whose engine has an ID.
func (o Options) OfNode(id string) Options {
	o.Folder = filepath.Join(o.Folder, "nodes", notInFolder().ReplaceAllString(id, "_"))
	return o
}

// Labels of stores beside those of package engine. People and the engine's own garbage collection
// can see from them what a volume is.
const (
	labelImage   = "sh.iglu.builder.image" // the image that the store was filled from
	labelImageID = "sh.iglu.builder.image-id"
	labelUser    = "sh.iglu.builder.user" // who its jobs run as; see isOutdated
	allJobs      = "(all jobs)"           // the value of engine.LabelStore where no repository has the store
)

// A Store is a Nix store that outlives jobs.
type Store struct {
	Name       string    // of its volume on the engine
	Repository string    // empty: all jobs share it
	Image      string    // name of the image that it was filled from
	Bytes      int64     // its size; 0 if that is not known
	Used       time.Time // when a job had it last; zero if that is not known
	Job        string    // the id of the job that has it; empty if none does
}

// A Pool is the stores of an instance. Its methods are safe for concurrent use.
type Pool struct {
	engine   atomic.Pointer[engine.Engine]
	options  Options
	metadata metadata
	log      *slog.Logger
	returned chan struct{} // gets an item when a job has given a store back

	mu    sync.Mutex
	locks map[string]*lock // of stores that somebody of this builder has or waits for, by name
}

// New returns the pool of an instance's stores.
func New(e engine.Engine, options Options, log *slog.Logger) *Pool {
	p := &Pool{
		options:  options,
		metadata: metadata{options.Folder},
		log:      log,
		returned: make(chan struct{}, 1),
		locks:    make(map[string]*lock),
	}
	p.Use(e)
	return p
}

// Use has the pool reach its engine in another way from now on.
func (p *Pool) Use(e engine.Engine) { p.engine.Store(&e) }

func (p *Pool) reach() engine.Engine { return *p.engine.Load() }

// List returns the stores, the one that was used last first.
func (p *Pool) List(ctx context.Context) ([]Store, error) {
	volumes, err := p.reach().Volumes().List(ctx)
	if err != nil {
		return nil, err
	}
	containers, err := p.reach().List(ctx)
	if err != nil {
		return nil, err
	}
	jobs := make(map[string]string)
	for _, c := range containers {
		jobs[c.Name] = c.Labels[engine.LabelJob]
	}
	var stores []Store
	for _, v := range volumes {
		e := p.entryOf(v)
		stores = append(stores, Store{Name: v.Name, Repository: e.Repository, Image: e.Image, Bytes: e.Bytes, Used: e.Used,
			Job: jobs[containerName(p.options.Instance, v.Name)]})
	}
	slices.SortFunc(stores, func(a, b Store) int { return cmp.Or(b.Used.Compare(a.Used), cmp.Compare(a.Name, b.Name)) })
	return stores, nil
}

// Size returns how many stores are known, and how many bytes they take together.
func (p *Pool) Size() (stores int, bytes int64) { return p.metadata.size() }

const (
	// releaseTime is how long Remove waits for a container to be gone whose job has ended.
	releaseTime     = 3 * time.Second
	releaseInterval = 100 * time.Millisecond
)

// Remove removes the store of a name, if it is there. One that is in use stays, which is an error.
func (p *Pool) Remove(ctx context.Context, name string) error {
	err := p.remove(ctx, name)
	for until := time.Now().Add(releaseTime); errors.Is(err, engine.ErrInUse) && time.Now().Before(until) && ctx.Err() == nil; {
		time.Sleep(releaseInterval)
		err = p.remove(ctx, name)
	}
	return err
}

// remove removes a store and what is known of it.
func (p *Pool) remove(ctx context.Context, name string) error {
	if err := p.reach().Volumes().Remove(ctx, name); err != nil {
		return fmt.Errorf("remove store %s: %w", name, err)
	}
	return p.metadata.remove(name)
}

// makeRoom removes the stores that were used least recently, until the others and the one to keep
// are not too large together. One that is in use is passed over.
func (p *Pool) makeRoom(ctx context.Context, keep string, of entry) error {
	entries, err := p.metadata.all()
	if err != nil {
		return err
	}
	if keep != "" {
		entries[keep] = of
	}
	names := make([]string, 0, len(entries))
	var total int64
	for name, e := range entries {
		total += e.Bytes
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return entries[a].Used.Compare(entries[b].Used) })
	if keep == "" && len(names) > 0 {
		keep = names[len(names)-1]
	}
	for _, name := range names {
		if total <= p.options.MaxBytes || ctx.Err() != nil {
			return ctx.Err()
		}
		if name == keep {
			continue
		}
		unlock, ok := p.tryLock(name, nil)
		if !ok {
			continue
		}
		err := p.remove(ctx, name)
		unlock()
		if err != nil {
			p.log.Warn("cannot remove a store to make room", "err", err)
			continue
		}
		p.log.Info("removed a store to make room", "store", name, "repository", entries[name].Repository,
			"size", units.BytesSize(float64(entries[name].Bytes)))
		total -= entries[name].Bytes
	}
	return nil
}

// entryOf returns what is known of the store in a volume: what the builder has kept, or else
// what the volume's labels say.
func (p *Pool) entryOf(v engine.Volume) entry {
	if e, ok := p.metadata.read(v.Name); ok {
		return e
	}
	e := entry{Repository: v.Labels[engine.LabelStore], Image: v.Labels[labelImage], ImageID: v.Labels[labelImageID]}
	if e.Repository == allJobs {
		e.Repository = ""
	}
	return e
}
