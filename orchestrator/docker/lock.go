package docker

import (
	"context"
	"time"

	containertypes "github.com/docker/docker/api/types/container"

	"iglu.sh/builder/internal/jobenv"
)

// A nameLock keeps builders of an instance from doing something at the same time: who does it has a
// container of a name, which is never started. The engine gives a name only once.
type nameLock struct {
	engine *Engine
	name   string
	image  string // the ID of any image
}

const (
	// lockInterval is how often a builder tries to take a lock that another one has.
	lockInterval = 500 * time.Millisecond
	// lockTimeout is after how long the other builder counts as dead. What is done with a lock
	// takes less than a second.
	lockTimeout = 20 * time.Second
)

// take takes the lock, until unlock is called. It waits while another builder has it.
func (l nameLock) take(ctx context.Context) (unlock func(), err error) {
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
	created, err := l.engine.client.ContainerCreate(ctx,
		&containertypes.Config{Image: l.image, Entrypoint: []string{jobenv.Program}, Labels: l.engine.labelled(nil)},
		&containertypes.HostConfig{NetworkMode: noNetwork}, nil, nil, l.name)
	if err != nil {
		return nil, err
	}
	return func() { l.engine.Remove(ctx, created.ID) }, nil // what stays is removed as a leftover
}
