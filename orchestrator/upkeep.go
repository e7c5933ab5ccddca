package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	"iglu.sh/builder/internal/jobenv"
)

// This file is what happens between jobs: containers that could not be removed are, and stores
// are verified, measured, and made smaller or removed. A job that comes ends it; see shift.go.

const (
	// restTime is how long no job has come before upkeep begins.
	restTime = 2 * time.Second
	// retryTime is when upkeep begins again that could not remove a container.
	retryTime = time.Minute
	// taskTimeout is how long one task in a store may take, after which the store goes: what
	// runs there is the store's own, in which a job may have put anything.
	taskTimeout = 30 * time.Minute
	// maxLast bounds in bytes what is kept of what a task prints, for the same reason.
	maxLast = 4 << 10
	// maxStoreSize is more than a store takes of any disk, in bytes: 1 PiB.
	maxStoreSize = 1 << 50
	// collectTo is the share of the limit that a store is brought down to that is alone
	// and larger than the limit.
	collectTo = 0.8
)

// tend brings the job image onto the engine, and looks after the stores between jobs until
// ctx ends.
func (d *docker) tend(ctx context.Context, log *slog.Logger) {
	err := d.ping(ctx)
	if err == nil {
		_, err = d.image.Ensure(ctx, func(line string) { log.Info(line) })
	}
	if err != nil && ctx.Err() == nil {
		log.Warn("cannot provide the job image; each job tries again", "err", err)
	}
	rest := time.NewTimer(restTime)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.rested:
			rest.Reset(restTime)
		case <-rest.C:
			d.shift.upkeep(ctx, func(ctx context.Context) {
				d.tidy(ctx, log)
				if d.dirty {
					rest.Reset(retryTime)
				}
				if err := d.keepStores(ctx, log); err != nil && ctx.Err() == nil {
					log.Warn("cannot look after the stores", "err", err)
				}
			})
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
// them together below the limit. It goes on after a failure: the image of a store may be gone.
func (d *docker) keepStores(ctx context.Context, log *slog.Logger) error {
	leases, err := d.reconcile(ctx)
	if err != nil {
		return err
	}
	var failed error
	for _, l := range leases {
		failed = errors.Join(failed, d.keepStore(ctx, l, log.With("store", l.store)))
	}
	return errors.Join(failed, d.makeRoom(ctx, nil, log), d.collect(ctx, log))
}

// reconcile makes the ledger's entries those of the stores that there are, and returns them.
func (d *docker) reconcile(ctx context.Context) ([]*lease, error) {
	volumes, err := d.storeVolumes(ctx)
	if err != nil {
		return nil, err
	}
	gone, err := d.ledger.all()
	if err != nil {
		return nil, err
	}
	var leases []*lease
	for _, v := range volumes {
		delete(gone, v.Name)
		leases = append(leases, &lease{store: v.Name, entry: d.entryOf(v)})
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
	ok, err := d.ensureSound(ctx, l, log, func(line string) { log.Warn(line) })
	if err != nil || !ok || l.entry.Measured {
		return err
	}
	return d.task(ctx, l, jobenv.UpkeepMeasure, log)
}

// ensureSound verifies a store that may not be sound, and reports whether it is. One that
// is not goes.
func (d *docker) ensureSound(ctx context.Context, l *lease, log *slog.Logger, say func(line string)) (bool, error) {
	switch l.entry.Condition {
	case sound:
		return true, nil
	case filling:
		return false, d.removeStore(ctx, l.store)
	}
	say("the job that had this store before did not end by itself: verifying the store")
	code, last, err := d.inStore(ctx, l, jobenv.UpkeepVerify, log)
	switch {
	case errors.Is(err, errTooLong):
		say("that takes too long: the store is removed")
		return false, d.removeStore(ctx, l.store)
	case err != nil:
		return false, err
	case code != 0:
		say("the store is damaged and is removed")
		return false, d.removeStore(ctx, l.store)
	}
	return true, d.measured(l, last)
}

// task has something done with a sound store, which ends with its size.
func (d *docker) task(ctx context.Context, l *lease, task string, log *slog.Logger) error {
	code, last, err := d.inStore(ctx, l, task, log)
	switch {
	case errors.Is(err, errTooLong):
		return errors.Join(fmt.Errorf("%s store %s: %w: the store is removed", task, l.store, err), d.removeStore(ctx, l.store))
	case err != nil:
		return err
	case code != 0:
		l.entry.Condition = suspect
		return errors.Join(fmt.Errorf("%s store %s: exit code %d: %s", task, l.store, code, last), d.ledger.write(l.store, l.entry))
	}
	return d.measured(l, last)
}

// measured writes down that a store is sound and how large it is.
func (d *docker) measured(l *lease, bytes string) error {
	size, err := strconv.ParseInt(bytes, 10, 64)
	if err == nil && (size < 0 || size > maxStoreSize) {
		err = fmt.Errorf("%d bytes cannot be", size)
	}
	if err != nil {
		return fmt.Errorf("measure store %s: %w", l.store, err)
	}
	l.entry.Bytes = size
	l.entry.Condition, l.entry.Lease, l.entry.Measured = sound, "", true
	return d.ledger.write(l.store, l.entry)
}

// collect makes each store smaller that is too large by itself: by Nix's garbage collector, or
// by removing it when that does not help.
func (d *docker) collect(ctx context.Context, log *slog.Logger) error {
	entries, err := d.ledger.all()
	if err != nil {
		return err
	}
	var failed error
	for name, e := range entries {
		if e.Bytes > d.options.Stores.MaxBytes && ctx.Err() == nil {
			failed = errors.Join(failed, d.collectIn(ctx, &lease{store: name, entry: e}, log.With("store", name)))
		}
	}
	return failed
}

// collectIn makes one store smaller that is larger than the limit.
func (d *docker) collectIn(ctx context.Context, l *lease, log *slog.Logger) error {
	limit, before := d.options.Stores.MaxBytes, l.entry.Bytes
	free := before - int64(collectTo*float64(limit))
	if err := d.task(ctx, l, fmt.Sprintf("%s %d", jobenv.UpkeepCollect, free), log); err != nil {
		return err
	}
	log.Info("collected garbage in a store", "before", units.BytesSize(float64(before)), "after", units.BytesSize(float64(l.entry.Bytes)))
	if l.entry.Bytes <= limit {
		return nil
	}
	log.Info("removed a store that is too large by itself", "repository", l.entry.Repository)
	return d.removeStore(ctx, l.store)
}

// errTooLong is why a task in a store was ended.
var errTooLong = fmt.Errorf("it took longer than %s", taskTimeout)

// inStore runs a task of upkeep in a container with a store, and returns its exit code and
// the last line that it prints.
func (d *docker) inStore(ctx context.Context, l *lease, task string, log *slog.Logger) (code int, last string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, taskTimeout, errTooLong)
	defer cancel()
	ctx, stopWatching := d.watchEngine(ctx)
	defer stopWatching()
	c := container{job: "upkeep-" + strings.TrimPrefix(l.store, d.name("store-")), told: jobenv.Job{Upkeep: task}, log: log}
	if err := ctx.Err(); err != nil { // which would not end the making of a container
		return 0, "", err
	}
	id, err := d.create(ctx, c, l.entry.ImageID, l)
	if err != nil {
		d.forget()
		return 0, "", err
	}
	defer d.remove(ctx, id, log)
	var out tail
	code, err = d.runCreated(ctx, id, &out, io.Discard, func(string) {}, func() bool { return false }, log)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return code, lines[len(lines)-1], err
}

// A tail keeps the last of what is written to it.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	*t = slices.Delete(*t, 0, max(0, len(*t)-maxLast))
	return len(p), nil
}
