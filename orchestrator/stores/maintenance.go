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

// Maintenance has stores be verified, measured, and made smaller or removed when no job has had them
// for a while. It takes a store like a job, and gives way to a job that wants the same one.

const (
	// idleTime is how long no job has had a store before its maintenance begins.
	idleTime = 2 * time.Second
	// taskTimeout is how long one task in a store may take, after which the store is removed: what
	// runs there is the store's own, in which a job may have put anything.
	taskTimeout = 30 * time.Minute
	// maxStoreSize is more than a store takes of any disk, in bytes: 1 PiB.
	maxStoreSize = 1 << 50
	// collectTo is the share of the limit that a store is brought down to that is alone
	// and larger than the limit.
	collectTo = 0.8
)

// A Task is work in a store, in a container of the builder's own.
type Task struct {
	Container string // its name
	Volume    engine.Volume
	ImageID   string
	Work      string // as jobenv.Job.Maintenance has it
}

// A Runner runs a task, and returns the container's exit code and the last line that it prints. Its
// error is engine.ErrInUse if another builder's container has the store.
type Runner func(ctx context.Context, task Task) (code int, last string, err error)

// Maintain looks after the stores until ctx ends.
func (p *Pool) Maintain(ctx context.Context, run Runner) {
	timer := time.NewTimer(idleTime)
	defer timer.Stop()
	waiting := true
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
			if err != nil && ctx.Err() == nil {
				p.log.Warn("cannot maintain the stores", "err", err)
			}
			if waiting = again; again {
				timer.Reset(idleTime)
			}
		}
	}
}

// maintainAll maintains every store that has not been since its last job, and reports whether one
// was used too recently. It goes on after a failure: the image of a store may be gone.
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
			failed = errors.Join(failed, p.maintain(ctx, name, e, run))
		}
	}
	return again, errors.Join(failed, p.makeRoom(ctx, "", entry{}))
}

// reconcile makes the metadata that of the stores that there are, and returns it.
func (p *Pool) reconcile(ctx context.Context) (map[string]entry, error) {
	volumes, err := p.engine.Volumes().List(ctx)
	if err != nil {
		return nil, err
	}
	known, err := p.metadata.all()
	if err != nil {
		return nil, err
	}
	there := make(map[string]entry)
	for _, v := range volumes {
		e, isKnown := known[v.Name]
		delete(known, v.Name)
		if isOutdated(v) {
			p.removeOutdated(ctx, v)
			continue
		}
		if !isKnown { // another builder's, or this one has lost its folder
			e = p.entryOf(v)
			e.Used = time.Now()
			if err := p.metadata.write(v.Name, e); err != nil {
				return nil, err
			}
		}
		there[v.Name] = e
	}
	for name := range known {
		if err := p.metadata.remove(name); err != nil {
			return nil, err
		}
	}
	return there, nil
}

// isOutdated reports whether a store does not say who its jobs ran as. Those of versions before that
// did were root, who can leave anything in a store, and named it so that no job gets it any more.
func isOutdated(v engine.Volume) bool {
	_, says := v.Labels[labelUser]
	return !says
}

// removeOutdated removes the store of an earlier version. One that is in use stays until the next time.
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

// maintain maintains a store, unless somebody has it or wants it.
func (p *Pool) maintain(ctx context.Context, name string, e entry, run Runner) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	unlock, ok := p.tryLock(name, cancel)
	if !ok {
		return nil
	}
	defer unlock()
	m := maintenance{pool: p, name: name, entry: e, run: run, log: p.log.With("store", name)}
	err := m.check(ctx)
	if ctx.Err() != nil || errors.Is(err, engine.ErrInUse) {
		return nil // the job that has it now, or wants it, ends with its maintenance
	}
	return err
}

// A maintenance is that of one store.
type maintenance struct {
	pool  *Pool
	name  string
	entry entry
	run   Runner
	log   *slog.Logger
}

// errTooLong is why a task in a store was ended.
var errTooLong = fmt.Errorf("it took longer than %s", taskTimeout)

// check has a store be verified if it may not be sound, measured, and made smaller if it is too
// large by itself.
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

// task runs a task, which ends with the store's size, and returns that. A store that is damaged, or
// takes too long, is removed.
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

// measured keeps how large the store is.
func (m maintenance) measured(bytes string) (size int64, err error) {
	size, err = strconv.ParseInt(bytes, 10, 64)
	if err == nil && (size < 0 || size > maxStoreSize) {
		err = fmt.Errorf("%d bytes cannot be", size)
	}
	if err != nil {
		return 0, fmt.Errorf("measure store %s: %w", m.name, err)
	}
	m.entry.Bytes, m.entry.Measured = size, true
	return size, m.pool.metadata.write(m.name, m.entry)
}
