package docker

import (
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
)

// acquire acquires the lock until unlock is called. It waits while another builder holds the lock.
func (l nameLock) acquire(ctx context.Context) (unlock func(), err error) {
	for begun := time.Now(); ; {
		unlock, err := l.try(ctx)
		if !isNameTaken(err) {
			return unlock, err
		}
		if time.Since(begun) > lockTimeout {
			l.engine.Remove(ctx, l.name)
			begun = time.Now()
		}
		select {
		case <-time.After(lockInterval):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (l nameLock) try(ctx context.Context) (unlock func(), err error) {
	created, err := createContainer(ctx, l.engine.client,
		&containertypes.Config{Image: l.image, Entrypoint: []string{jobenv.Program}, Labels: l.engine.labelled(nil)},
		&containertypes.HostConfig{NetworkMode: noNetwork}, l.name)
	if err != nil {
		return nil, err
	}
	return func() { l.engine.Remove(ctx, created.ID) }, nil // if that fails, it is removed later as a leftover
}
