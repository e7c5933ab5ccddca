package stores

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/orchestrator/engine"
)

// A Lease is a job's exclusive use of a store within this builder.
type Lease struct {
	pool   *Pool
	key    Key
	volume engine.Volume
	entry  entry
	fresh  bool
	unlock func()
}

// ErrTaken is the error for a job that has waited too long for its store, because other jobs use it.
var ErrTaken = errors.New("other jobs have the store")

// Lease gives a job the store of a key. It waits while another job of this builder has the store. If ctx ends, it
// returns the context's cause.
func (p *Pool) Lease(ctx context.Context, key Key, say func(line string)) (*Lease, error) {
	unlock, err := p.lock(ctx, key.Name, func() {
		say("another job has this job's Nix store: waiting for it")
	})
	if err != nil {
		return nil, err
	}
	return &Lease{pool: p, key: key, unlock: unlock}, nil
}

// Open checks whether the store exists, and creates it if not. It can be called again.
func (l *Lease) Open(ctx context.Context, say func(line string)) error {
	p := l.pool
	volume, err := p.reach().Volumes().Get(ctx, l.key.Name)
	if l.fresh = errors.Is(err, engine.ErrNotFound); !l.fresh && err != nil {
		return err
	}
	l.volume = engine.Volume{Name: l.key.Name, Labels: l.key.labels()}
	l.entry = entry{Repository: l.key.Repository, Image: l.key.Image.Ref, ImageID: l.key.Image.ID, Bytes: l.key.Image.Size}
	if !l.fresh {
		if known := p.entryOf(volume); known.ImageID != "" { // otherwise somebody else has created it, for instance from a backup
			l.entry = known
		}
	}
	l.entry.Used, l.entry.Measured = time.Now(), false
	if err := p.makeRoom(ctx, l.key.Name, l.entry); err != nil {
		return err
	}
	if err := p.metadata.write(l.key.Name, l.entry); err != nil {
		return err
	}
	if l.fresh {
		say("creating this job's Nix store from the image: " + l.key.Name)
		return p.reach().Volumes().Create(ctx, l.volume)
	}
	return nil
}

// Container returns the name of the container that may use the store. All builders use the same name, so only one
// container can use the store at a time.
func (l *Lease) Container() string { return containerName(l.pool.options.Instance, l.key.Name) }

// Volume returns the store's volume.
func (l *Lease) Volume() engine.Volume { return l.volume }

// State returns the value for jobenv.Job.Store: whether the store is fresh or used.
func (l *Lease) State() string {
	if l.fresh {
		return jobenv.StoreFresh
	}
	return jobenv.StoreUsed
}

// Fresh reports whether the store was created for this job.
func (l *Lease) Fresh() bool { return l.fresh }

// Discard removes the store. No container may use it. Open can be called again.
func (l *Lease) Discard(ctx context.Context) error { return l.pool.remove(ctx, l.key.Name) }

// Return gives the store back. grown is how many bytes the job has added. ctx may have ended.
func (l *Lease) Return(ctx context.Context, grown int64) {
	p := l.pool
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), returnTimeout)
	defer cancel()
	l.entry.Used, l.entry.Measured = time.Now(), false
	l.entry.Bytes += grown
	err := p.metadata.write(l.key.Name, l.entry)
	if err == nil {
		err = p.makeRoom(ctx, l.key.Name, l.entry)
	}
	if err != nil {
		p.log.Error("cannot give a job's store back", "store", l.key.Name, "err", err)
	}
	l.Release()
}

// Release gives the store back if the job has not used it.
func (l *Lease) Release() { l.unlock() }

// returnTimeout is how long it may take to remove old stores after a job.
const returnTimeout = 2 * time.Minute

// containerName returns the name of the containers that use a store.
func containerName(instance, volume string) string {
	return fmt.Sprintf("iglu-store-%s-%s", instance, strings.TrimPrefix(volume, volumeName(instance, "")))
}

// volumeName returns the name of the volume of the store with an id.
func volumeName(instance, id string) string { return "iglu-builder-" + instance + "-store-" + id }

// labels returns the labels of the store's volume.
func (k Key) labels() map[string]string {
	return map[string]string{
		engine.LabelStore: cmp.Or(k.Repository, allJobs),
		labelUser:         k.User,
		labelImage:        k.Image.Ref,
		labelImageID:      k.Image.ID,
	}
}
