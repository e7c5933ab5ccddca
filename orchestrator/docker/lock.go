package docker

import (
	"cmp"
	"context"
	"time"

	containertypes "github.com/docker/docker/api/types/container"

	"iglu.sh/builder/internal/jobenv"
)

// A nameLock is a lock for all builders of an instance. The builder that holds it has a container with a certain name,
// which it never starts. The engine refuses a second container with that name.
type nameLock struct {
	engine *Engine
	name   string
	image  string // the ID of any image
}

const (
	// lockInterval is how often a builder tries to acquire a lock that another one holds.
	lockInterval = 500 * time.Millisecond
	// lockTimeout is after how long a lock is broken, because the other builder was probably killed. Builders
	// hold a lock for less than a second.
	lockTimeout = 20 * time.Second
	// maxRefusals is how often a builder asks in that time. Only answers count: while the engine hangs, the builder
	// that holds the lock cannot release it either.
	maxRefusals = int(lockTimeout/lockInterval) + 1
)

// acquire acquires the lock until unlock is called. It waits while another builder holds the lock.
func (l nameLock) acquire(ctx context.Context) (unlock func(), err error) {
	for holder, refusals := "", 0; ; {
		unlock, err := l.try(ctx)
		if !isNameTaken(err) {
			return unlock, err
		}
		if now := l.holder(ctx); now != holder { // each time the lock is taken, it is another container
			holder, refusals = now, 0
		}
		if refusals++; refusals > maxRefusals {
			l.engine.Remove(ctx, cmp.Or(holder, l.name))
			refusals = 0
		}
		select {
		case <-time.After(lockInterval):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// holder returns the ID of the container that is the lock now, or "" if that is not known.
func (l nameLock) holder(ctx context.Context) string {
	found, err := l.engine.client.ContainerInspect(ctx, l.name)
	if err != nil || found.ContainerJSONBase == nil {
		return ""
	}
	return found.ID
}

func (l nameLock) try(ctx context.Context) (unlock func(), err error) {
	created, err := createContainer(ctx, l.engine.client,
		&containertypes.Config{Image: l.image, Entrypoint: []string{jobenv.Program}, Labels: l.engine.labelled(nil)},
		&containertypes.HostConfig{NetworkMode: noNetwork}, l.name)
	if err != nil {
		return nil, err
	}
	l.engine.helpers.Store(created.ID, nil)
	return func() {
		l.engine.Remove(ctx, created.ID) // if that fails, it is removed later as a leftover
		l.engine.helpers.Delete(created.ID)
	}, nil
}
