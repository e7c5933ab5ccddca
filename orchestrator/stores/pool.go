// Package stores manages the Nix stores that are kept between jobs. A store is a volume of the engine, which is mounted
// at /nix in the containers of its jobs, one after the other.
//
// A Pool decides which store a job has (class.go) and leases it to one job at a time (lease.go). Its maintenance verifies
// the stores, and keeps their total size below a limit (maintenance.go).
//
// Several builders of an instance share its stores. The engine prevents two of them from using a store at once: the
// container that uses a store has a name made from the store's name, and the engine refuses a second container with that
// name; see Lease.Container. A store itself records whether it is clean; see internal/jobrun.
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
	Ephemeral  Mode = "ephemeral"  // none: each job has its own store, which is removed after it
	Repository Mode = "repository" // the jobs of one repository; a job without a repository has its own store
	Shared     Mode = "shared"     // all jobs
)

// Options say how stores are kept.
type Options struct {
	// Instance is the name of the instance whose builders share the stores.
	Instance string
	Mode     Mode
	// MaxBytes is the largest size of all stores together.
	MaxBytes int64
	// Folder is the folder for the stores' metadata.
	Folder string
	// Wait is how long a job waits for a store that another job uses.
	Wait time.Duration
}

var notInFolder = lazyregexp.New(`[^A-Za-z0-9.-]`)

// OfNode returns the options for a node of a cluster. id is the ID of its engine.
func (o Options) OfNode(id string) Options {
	o.Folder = filepath.Join(o.Folder, "nodes", notInFolder().ReplaceAllString(id, "_"))
	return o
}

// Labels of stores, in addition to those of package engine. They show people, and the engine's garbage collection, what a
// volume is.
const (
	labelImage   = "sh.iglu.builder.image" // the image that the store was created from
	labelImageID = "sh.iglu.builder.image-id"
	labelUser    = "sh.iglu.builder.user" // the user that runs the store's jobs; see isOutdated
	allJobs      = "(all jobs)"           // the value of engine.LabelStore of a store that all jobs share
)

// A Store is a Nix store that is kept between jobs.
type Store struct {
	Name       string    // the name of its volume on the engine
	Repository string    // empty: all jobs share it
	Image      string    // the name of the image that it was created from
	Bytes      int64     // its size; 0 if it is not known
	Used       time.Time // when a job used it last; zero if that is not known
	Job        string    // the id of the job that uses it; empty if none does
}

// A Pool manages the stores of an instance. Its methods are safe for concurrent use.
type Pool struct {
	engine   atomic.Pointer[engine.Engine]
	options  Options
	metadata metadata
	log      *slog.Logger
	returned chan struct{} // gets an item when a job has given a store back, or does not wait for it any more

	mu    sync.Mutex
	locks map[string]*lock // the locks that are held or waited for, by the name of the store
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

// List returns the stores, the most recently used first.
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
	// releaseTime is how long Remove waits until the container of a job that has ended is removed.
	releaseTime     = 10 * time.Second
	releaseInterval = 100 * time.Millisecond
)

// Remove removes the store with a name. It returns nil if the store does not exist, and engine.ErrInUse if a container
// uses it.
func (p *Pool) Remove(ctx context.Context, name string) error {
	err := p.remove(ctx, name)
	for until := time.Now().Add(releaseTime); errors.Is(err, engine.ErrInUse) && time.Now().Before(until) && ctx.Err() == nil; {
		time.Sleep(releaseInterval)
		err = p.remove(ctx, name)
	}
	return err
}

// remove removes a store and its metadata.
func (p *Pool) remove(ctx context.Context, name string) error {
	if err := p.reach().Volumes().Remove(ctx, name); err != nil {
		return fmt.Errorf("remove store %s: %w", name, err)
	}
	return p.metadata.remove(name)
}

// makeRoom removes the least recently used stores until the rest is not larger than the limit. It does not remove the
// store keep, whose entry is of, or stores that are in use. If keep is empty, it does not remove the most recently used
// store.
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

// entryOf returns the metadata of the store in a volume. If there is none, it uses the volume's labels.
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
