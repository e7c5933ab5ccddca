package orchestrator

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/go-units"

	"iglu.sh/builder/internal/jobenv"
)

// This file is what happens between jobs: stores are verified, measured, and made smaller
// or removed. A job that comes ends it; see shift.go.

const (
	// restTime is how long no job has come before upkeep begins.
	restTime = 2 * time.Second
	// collectTo is the share of the limit that a store is brought down to that is alone
	// and larger than the limit.
	collectTo = 0.8
)

// tend brings the job image onto the engine, and looks after the stores between jobs until
// ctx ends.
func (d *docker) tend(ctx context.Context, log *slog.Logger) {
	if _, err := d.image.Ensure(ctx, func(line string) { log.Info(line) }); err != nil && ctx.Err() == nil {
		log.Warn("cannot provide the job image; each job tries again", "err", err)
	}
	for {
		rest := time.NewTimer(restTime)
		select {
		case <-ctx.Done():
			return
		case <-d.rested:
			rest.Stop()
			continue
		case <-rest.C:
		}
		d.shift.upkeep(ctx, func(ctx context.Context) {
			if err := d.keepStores(ctx, log); err != nil && ctx.Err() == nil {
				log.Warn("cannot look after the stores", "err", err)
			}
		})
		select {
		case <-ctx.Done():
			return
		case <-d.rested:
		}
	}
}

// rest notes that a job has ended.
func (d *docker) rest() {
	select {
	case d.rested <- struct{}{}:
	default:
	}
}

// keepStores brings every store into a state in which it can be used at once, and all of
// them together below the limit.
func (d *docker) keepStores(ctx context.Context, log *slog.Logger) error {
	leases, err := d.reconcile(ctx)
	if err != nil {
		return err
	}
	for _, l := range leases {
		if err := d.keepStore(ctx, l, log.With("store", l.store)); err != nil {
			return err
		}
	}
	if err := d.makeRoom(ctx, nil, log); err != nil {
		return err
	}
	return d.collect(ctx, log)
}

// reconcile makes the ledger's entries those of the stores that there are, and returns them.
func (d *docker) reconcile(ctx context.Context) ([]*lease, error) {
	found, err := d.client.VolumeList(ctx, volume.ListOptions{Filters: d.mine(filters.Arg("label", labelStore))})
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	gone, err := d.ledger.all()
	if err != nil {
		return nil, err
	}
	var leases []*lease
	for _, v := range found.Volumes {
		e, ok := gone[v.Name]
		if !ok {
			e = entry{Image: v.Labels[labelImage], ImageID: v.Labels[labelImageID], Condition: suspect}
			if repository := v.Labels[labelStore]; repository != allJobs {
				e.Repository = repository
			}
		}
		delete(gone, v.Name)
		leases = append(leases, &lease{store: v.Name, entry: e})
	}
	for name := range gone {
		if err := d.ledger.remove(name); err != nil {
			return nil, err
		}
	}
	return leases, nil
}

// keepStore verifies and measures a store, if that is due.
func (d *docker) keepStore(ctx context.Context, l *lease, log *slog.Logger) error {
	if l.entry.Condition == filling {
		return d.removeStore(ctx, l.store)
	}
	if l.entry.Condition != sound {
		ok, err := d.verify(ctx, l, log)
		if err != nil {
			return err
		}
		if !ok {
			log.Warn("a store was damaged and is removed", "repository", l.entry.Repository)
			return d.removeStore(ctx, l.store)
		}
	} else if !l.entry.Measured {
		if err := d.task(ctx, l, jobenv.UpkeepMeasure, log); err != nil {
			return err
		}
	}
	return nil
}

// verify reports whether a store is sound, and writes that down.
func (d *docker) verify(ctx context.Context, l *lease, log *slog.Logger) (bool, error) {
	code, last, err := d.inStore(ctx, l, jobenv.UpkeepVerify, log)
	if err != nil || code != 0 {
		return false, err
	}
	return true, d.measured(l, last)
}

// task has something done with a sound store, which ends with its size.
func (d *docker) task(ctx context.Context, l *lease, task string, log *slog.Logger) error {
	code, last, err := d.inStore(ctx, l, task, log)
	if err == nil && code != 0 {
		err = fmt.Errorf("%s store %s: exit code %d: %s", task, l.store, code, last)
	}
	if err != nil {
		return err
	}
	return d.measured(l, last)
}

// measured writes down that a store is sound and how large it is.
func (d *docker) measured(l *lease, bytes string) (err error) {
	if l.entry.Bytes, err = strconv.ParseInt(bytes, 10, 64); err != nil {
		return fmt.Errorf("measure store %s: %w", l.store, err)
	}
	l.entry.Condition, l.entry.Lease, l.entry.Measured = sound, "", true
	return d.ledger.write(l.store, l.entry)
}

// collect makes a store smaller that is too large by itself: by Nix's garbage collector, or
// by removing it when that does not help.
func (d *docker) collect(ctx context.Context, log *slog.Logger) error {
	entries, err := d.ledger.all()
	if err != nil {
		return err
	}
	limit := d.options.Stores.MaxBytes
	for name, e := range entries {
		if e.Bytes <= limit {
			continue
		}
		l := &lease{store: name, entry: e}
		free := e.Bytes - int64(collectTo*float64(limit))
		if err := d.task(ctx, l, fmt.Sprintf("%s %d", jobenv.UpkeepCollect, free), log); err != nil {
			return err
		}
		log.Info("collected garbage in a store", "store", name, "before", units.HumanSize(float64(e.Bytes)),
			"after", units.HumanSize(float64(l.entry.Bytes)))
		if l.entry.Bytes > limit {
			log.Info("removed a store that is too large by itself", "store", name, "repository", e.Repository)
			return d.removeStore(ctx, name)
		}
	}
	return nil
}
