package memengine

import (
	"context"
	"maps"
	"slices"

	"iglu.sh/builder/orchestrator/engine"
)

// volumes are engine.Volumes.
type volumes struct{ *Engine }

func (v volumes) List(context.Context) (all []engine.Volume, err error) {
	err = v.locked("Volumes.List", func() { all = slices.Collect(maps.Values(v.volumes)) })
	return all, err
}

func (v volumes) Get(_ context.Context, name string) (found engine.Volume, err error) {
	err = v.locked("Volumes.Get", func() { found = v.volumes[name] })
	if err == nil && found.Name == "" {
		err = engine.ErrNotFound
	}
	return found, err
}

func (v volumes) Create(_ context.Context, volume engine.Volume) error {
	return v.locked("Volumes.Create", func() { v.volumes[volume.Name] = volume })
}

func (v volumes) Remove(_ context.Context, name string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	err := v.fail("Volumes.Remove")
	for _, c := range v.containers {
		if c.spec.Store.Name == name {
			err = engine.ErrInUse
		}
	}
	if err == nil {
		delete(v.volumes, name)
	}
	return err
}
