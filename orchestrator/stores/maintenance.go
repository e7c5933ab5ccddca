package stores

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/docker/go-units"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/orchestrator/engine"
)

// Maintenance verifies and measures stores that no job has used for a while, and makes them smaller or removes them. It
// locks a store like a job does, and stops when a job wants the same store.

const (
	// idleTime is how long a store must be unused before its maintenance begins.
	idleTime = 2 * time.Second
	// awayInterval is how often the maintenance is tried again while the engine does not answer.
	awayInterval = time.Minute
	// restInterval is how often the stores are maintained while no job uses them: somebody may have removed some, and
	// maintenance may have failed, or another builder's job had a store.
	restInterval = time.Hour
	// taskTimeout is how long one task in a store may take. After that, the store is removed. The time needs a
	// limit, because the task runs programs of the store, in which a job may have put anything.
	taskTimeout = 30 * time.Minute
	// maxStoreSize is the largest plausible size of a store in bytes: 1 PiB.
	maxStoreSize = 1 << 50
	// collectTo is a share of the limit. If one store alone is larger than the limit, its garbage is collected
	// until it has this size.
	collectTo = 0.8
)

// A Task is maintenance work in a store. It runs in its own container.
type Task struct {
	Container string // its name
	Volume    engine.Volume
	ImageID   string
	Work      string // the value for jobenv.Job.Maintenance
}

// A Runner runs a task, and returns the container's exit code and the last line that it prints. The error is
// engine.ErrInUse if another builder's container uses the store.
type Runner func(ctx context.Context, task Task) (code int, last string, err error)

// Maintain maintains the stores until ctx ends.
func (p *Pool) Maintain(ctx context.Context, run Runner) {
	timer := time.NewTimer(idleTime)
	defer timer.Stop()
	waiting, away := true, false // waiting: for idleTime or awayInterval
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.returned:
			if !waiting {
				timer.Reset(idleTime)
				waiting = true
			}
		case <-timer.C:
			again, err := p.maintainAll(ctx, run)
			wasAway := away
			away = errors.Is(err, errAway)
			if err != nil && ctx.Err() == nil && !(away && wasAway) {
				p.log.Warn("cannot maintain the stores", "err", err)
			}
			waiting = again || away
			switch {
			case away:
				timer.Reset(awayInterval)
			case again:
				timer.Reset(idleTime)
			default:
				timer.Reset(restInterval)
			}
		}
	}
}

// maintainAll maintains every store that was not maintained since its last job. It reports whether a store was used too
// recently for that. It continues after a failure, because only the image of one store may be missing.
func (p *Pool) maintainAll(ctx context.Context, run Runner) (again bool, err error) {
	entries, err := p.reconcile(ctx)
	if err != nil {
		return false, err
	}
	var failed error
	for name, e := range entries {
		switch {
		case e.Measured:
		case time.Since(e.Used) < idleTime:
			again = true
		default:
			failed = errors.Join(failed, p.maintain(ctx, name, run))
		}
	}
	return again, errors.Join(failed, p.makeRoom(ctx, "", entry{}))
}

// errAway is the error if the engine does not say which stores there are.
var errAway = errors.New("list the stores")

// reconcile makes the metadata match the existing stores, and returns it.
func (p *Pool) reconcile(ctx context.Context) (map[string]entry, error) {
	volumes, err := p.reach().Volumes().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAway, err)
	}
	known, err := p.metadata.all()
	if err != nil {
		return nil, err
	}
	entries := make(map[string]entry)
	for _, v := range volumes {
		e, isKnown := known[v.Name]
		delete(known, v.Name)
		if isOutdated(v) {
			p.removeOutdated(ctx, v)
			continue
		}
		if !isKnown { // another builder has created it, or this builder has lost its metadata
			e = p.entryOf(v)
		}
		if now := time.Now(); !isKnown || e.Used.After(now) { // the clock was wrong, or is
			e.Used = now
			if err := p.metadata.write(v.Name, e); err != nil {
				return nil, err
			}
		}
		entries[v.Name] = e
	}
	for name := range known {
		if err := p.metadata.remove(name); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// isOutdated reports whether a store has no label for the user of its jobs. Such a store is from a version without that
// label. Its jobs ran as root, who can leave anything in a store. No job uses it any more.
func isOutdated(v engine.Volume) bool {
	_, hasUser := v.Labels[labelUser]
	return !hasUser
}

// removeOutdated removes a store of an earlier version. A store that is in use is kept until the next time.
func (p *Pool) removeOutdated(ctx context.Context, v engine.Volume) {
	log := p.log.With("store", v.Name, "repository", v.Labels[engine.LabelStore])
	unlock, ok := p.tryLock(v.Name, nil)
	if !ok {
		return
	}
	defer unlock()
	if err := p.remove(ctx, v.Name); err != nil {
		log.Warn("cannot remove a store of an earlier version", "err", err)
		return
	}
	log.Info("removed a store of an earlier version: it does not say whether its jobs were root")
}

// maintain maintains a store, unless its lock is taken, a job waits for it, or it was removed meanwhile.
func (p *Pool) maintain(ctx context.Context, name string, run Runner) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	unlock, ok := p.tryLock(name, cancel)
	if !ok {
		return nil
	}
	defer unlock()
	e, exists := p.metadata.read(name) // a job may have used the store since reconcile: other stores' maintenance takes long
	if !exists {
		return nil
	}
	m := maintenance{pool: p, name: name, entry: e, run: run, log: p.log.With("store", name)}
	err := m.check(ctx)
	if ctx.Err() != nil || errors.Is(err, engine.ErrInUse) {
		return nil // the store is maintained after the job that has it or wants it
	}
	return err
}

// A maintenance is the maintenance of one store.
type maintenance struct {
	pool  *Pool
	name  string
	entry entry
	run   Runner
	log   *slog.Logger
}

// errTooLong is the cause for ending a task after taskTimeout.
var errTooLong = fmt.Errorf("it took longer than %s", taskTimeout)

// check verifies a store if it may be damaged, and measures it. If the store alone is larger than the limit, check makes
// it smaller, or removes it.
func (m maintenance) check(ctx context.Context) error {
	size, err := m.task(ctx, jobenv.MaintenanceCheck)
	limit := m.pool.options.MaxBytes
	if err != nil || size <= limit {
		return err
	}
	after, err := m.task(ctx, fmt.Sprintf("%s %d", jobenv.MaintenanceCollect, size-int64(collectTo*float64(limit))))
	if err != nil {
		return err
	}
	m.log.Info("collected garbage in a store", "before", units.BytesSize(float64(size)), "after", units.BytesSize(float64(after)))
	if after <= limit {
		return nil
	}
	m.log.Info("removed a store that is too large by itself")
	return m.pool.remove(ctx, m.name)
}

// task runs a task and returns the store's size, which the task prints last. It removes the store if the store is damaged
// or the task takes too long.
func (m maintenance) task(ctx context.Context, work string) (size int64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, taskTimeout, errTooLong)
	defer cancel()
	code, last, err := m.run(ctx, Task{
		Container: containerName(m.pool.options.Instance, m.name),
		Volume:    engine.Volume{Name: m.name},
		ImageID:   m.entry.ImageID,
		Work:      work,
	})
	switch {
	case errors.Is(context.Cause(ctx), errTooLong):
		err = fmt.Errorf("%s store %s: %w: the store is removed", work, m.name, errTooLong)
	case err != nil:
		return 0, err
	case code == engine.ExitKilled || code == engine.ExitTerminated || code == jobenv.ExitLifelineLost:
		return 0, fmt.Errorf("%s store %s: exit code %d", work, m.name, code)
	case code != 0:
		err = fmt.Errorf("%s store %s: exit code %d: %s: the store is removed", work, m.name, code, last)
	default:
		return m.measured(last)
	}
	return 0, errors.Join(err, m.pool.remove(context.WithoutCancel(ctx), m.name))
}

// measured writes the store's size to the metadata.
func (m maintenance) measured(bytes string) (size int64, err error) {
	size, err = strconv.ParseInt(bytes, 10, 64)
	if err == nil && (size < 0 || size > maxStoreSize) {
		err = fmt.Errorf("a size of %d bytes is impossible", size)
	}
	if err != nil {
		return 0, fmt.Errorf("measure store %s: %w", m.name, err)
	}
	m.entry.Bytes, m.entry.Measured = size, true
	return size, m.pool.metadata.write(m.name, m.entry)
}
