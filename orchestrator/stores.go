package orchestrator

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	containertypes "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/go-units"

	"iglu.sh/builder/images"
	"iglu.sh/builder/internal/jobenv"
)

// This file is the Nix stores that outlive a job: volumes of the engine, each mounted at
// /nix for one job after the other. What happens to them between jobs stands in upkeep.go.

// A StoreMode says which jobs share a Nix store, one after the other.
type StoreMode string

// The modes.
const (
	StoreEphemeral  StoreMode = "ephemeral"  // none: each has its own, gone with it
	StoreRepository StoreMode = "repository" // those of one repository; others have their own
	StoreShared     StoreMode = "shared"     // all
)

// Stores say how stores are kept.
type Stores struct {
	Mode StoreMode
	// MaxBytes is how large all of an instance may be together.
	MaxBytes int64
	// Folder is where the builder writes down what it knows of them.
	Folder string
}

// Labels of stores, beside the instance's. The engine's own garbage collection and people
// can see from them what a volume is.
const (
	labelStore   = "sh.iglu.builder.store" // the repository, or allJobs
	labelImage   = "sh.iglu.builder.image" // the image that the store was filled from
	labelImageID = "sh.iglu.builder.image-id"
	allJobs      = "(all jobs)"
)

// A Store is a Nix store that outlives jobs.
type Store struct {
	Name       string    // of its volume on the engine
	Repository string    // empty: all jobs share it
	Image      string    // name of the image that it was filled from
	Bytes      int64     // its size; 0 if that is not known
	Used       time.Time // when a job had it last; zero if that is not known
	Lease      string    // the job that has it; empty if none does
}

// A lease is a job's use of a store, which no other job has meanwhile. It is nil where the
// store goes with the job: then there is nothing to mount, and nothing to give back.
type lease struct {
	store string
	entry entry
	fresh bool // it is filled when the container is made
}

// mount adds the store to the settings of a container.
func (l *lease) mount(config *containertypes.Config, host *containertypes.HostConfig) {
	if l == nil {
		return
	}
	host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeVolume, Source: l.store, Target: "/nix"})
	config.Env = append(config.Env, "XDG_CACHE_HOME="+jobenv.StoreCache)
}

// takeStore gives a job the store that it is to have: sound, or new. When the job has ended,
// giveBack takes it.
func (d *docker) takeStore(ctx context.Context, c container, image images.Image, say func(string)) (*lease, error) {
	name, e, err := d.storeFor(c, image)
	if name == "" {
		return nil, err
	}
	l := &lease{store: name, entry: e}
	there, err := d.inspectVolume(ctx, name)
	switch {
	case errdefs.IsNotFound(err):
		l.fresh = true
	case err != nil:
		return nil, err
	default:
		if known := d.entryOf(&there); known.ImageID != "" {
			l.entry = known
		} else {
			l.entry.Condition = suspect // somebody else has made it, of a backup for instance
		}
		ok, err := d.ensureSound(ctx, l, c.log, say)
		if err != nil {
			return nil, err
		}
		l.fresh = !ok
	}
	l.entry.Condition, l.entry.Lease, l.entry.Used = leased, c.job, time.Now()
	if l.fresh {
		l.entry.Condition, l.entry.Bytes = filling, image.Size
	}
	if err := d.makeRoom(ctx, l, c.log); err != nil {
		return nil, err
	}
	if err := d.ledger.write(name, l.entry); err != nil {
		return nil, err
	}
	if l.fresh {
		say("this job begins with the image's own Nix store: filling " + name)
		err = d.createStore(ctx, l)
	}
	return l, err
}

func (d *docker) inspectVolume(ctx context.Context, name string) (volume.Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return d.client.VolumeInspect(ctx, name)
}

func (d *docker) createStore(ctx context.Context, l *lease) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := d.client.VolumeCreate(ctx, volume.CreateOptions{Name: l.store, Labels: map[string]string{
		labelInstance: d.options.Instance,
		labelStore:    cmp.Or(l.entry.Repository, allJobs),
		labelImage:    l.entry.Image,
		labelImageID:  l.entry.ImageID,
	}})
	return err
}

// filled notes that a container with the store has been made.
func (d *docker) filled(l *lease, took time.Duration, say func(string)) error {
	if l == nil || !l.fresh {
		return nil
	}
	say(fmt.Sprintf("the store was filled in %.1f s", took.Seconds()))
	l.entry.Condition = leased
	return d.ledger.write(l.store, l.entry)
}

// giveBack ends a job's lease. killed says that the job did not end by itself. ctx may have
// ended.
func (d *docker) giveBack(ctx context.Context, l *lease, killed bool, c container) {
	if l == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	l.entry.Lease, l.entry.Used, l.entry.Measured = "", time.Now(), false
	l.entry.Bytes += c.account.storeBytes()
	switch {
	case l.entry.Condition == filling: // and stays so
	case killed:
		l.entry.Condition = suspect
	default:
		l.entry.Condition = sound
	}
	err := d.ledger.write(l.store, l.entry)
	if err == nil {
		err = d.makeRoom(ctx, l, c.log)
	}
	if err != nil {
		c.log.Error("cannot give a job's store back", "store", l.store, "err", err)
	}
}

// makeRoom removes the stores that were used least recently, until the others and the one
// that is leased are not too large together. One that cannot be removed, because somebody else
// uses it, is no reason for a job not to run.
func (d *docker) makeRoom(ctx context.Context, l *lease, log *slog.Logger) error {
	entries, err := d.ledger.all()
	if err != nil {
		return err
	}
	if l != nil {
		entries[l.store] = l.entry
	}
	names := make([]string, 0, len(entries))
	var total int64
	for name, e := range entries {
		total += e.Bytes
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return entries[a].Used.Compare(entries[b].Used) })
	for _, name := range names {
		switch {
		case total <= d.options.Stores.MaxBytes || ctx.Err() != nil:
			return ctx.Err()
		case l != nil && name == l.store, l == nil && name == names[len(names)-1]:
			continue // the one that is to stay
		}
		if err := d.removeStore(ctx, name); err != nil {
			log.Warn("cannot remove a store to make room", "err", err)
			continue
		}
		log.Info("removed a store to make room", "store", name, "repository", entries[name].Repository,
			"size", units.BytesSize(float64(entries[name].Bytes)))
		total -= entries[name].Bytes
	}
	return nil
}

// releaseTime is how long a container may take to be gone whose job has ended, and which
// still has its store.
const releaseTime = 3 * time.Second

// removeStore removes a store, if it is there, and what is written down of it.
func (d *docker) removeStore(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	latest := time.Now().Add(releaseTime)
	err := d.client.VolumeRemove(ctx, name, false)
	for errdefs.IsConflict(err) && time.Now().Before(latest) && ctx.Err() == nil {
		time.Sleep(removeInterval)
		err = d.client.VolumeRemove(ctx, name, false)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove store %s: %w", name, err)
	}
	return d.ledger.remove(name)
}

// storeVolumes returns the volumes of the instance's stores.
func (d *docker) storeVolumes(ctx context.Context) ([]*volume.Volume, error) {
	volumes, err := d.volumes(ctx)
	return slices.DeleteFunc(volumes, func(v *volume.Volume) bool { return !isStore(v) }), err
}

func isStore(v *volume.Volume) bool {
	_, is := v.Labels[labelStore]
	return is
}

// entryOf returns what is known of the store in a volume: what is written down, or else
// what the volume's labels say.
func (d *docker) entryOf(v *volume.Volume) entry {
	if e, ok := d.ledger.read(v.Name); ok {
		return e
	}
	e := entry{Repository: v.Labels[labelStore], Image: v.Labels[labelImage], ImageID: v.Labels[labelImageID], Condition: suspect}
	if e.Repository == allJobs {
		e.Repository = ""
	}
	return e
}

// stores returns the instance's stores, the one that was used last first.
func (d *docker) stores(ctx context.Context) ([]Store, error) {
	volumes, err := d.storeVolumes(ctx)
	if err != nil {
		return nil, err
	}
	var stores []Store
	for _, v := range volumes {
		e := d.entryOf(v)
		stores = append(stores, Store{Name: v.Name, Repository: e.Repository, Image: e.Image, Bytes: e.Bytes, Used: e.Used, Lease: e.Lease})
	}
	slices.SortFunc(stores, func(a, b Store) int { return cmp.Or(b.Used.Compare(a.Used), cmp.Compare(a.Name, b.Name)) })
	return stores, nil
}

func (d *docker) storesSize() (stores int, bytes int64) { return d.ledger.size() }
