package docker

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	networktypes "github.com/docker/docker/api/types/network"
	volumetypes "github.com/docker/docker/api/types/volume"

	"iglu.sh/builder/orchestrator/engine"
)

// Volumes implements engine.Engine.
func (d *Engine) Volumes() engine.Volumes { return volumes{d} }

// callStore is the call of an engine that looks for a store, or creates one.
const callStore = "provide the job's store"

// volumes implements engine.Volumes for the instance's volumes that are labelled as stores.
type volumes struct{ engine *Engine }

func (v volumes) List(ctx context.Context) ([]engine.Volume, error) {
	if err := v.engine.ping(ctx); err != nil {
		return nil, err
	}
	all, err := v.all(ctx)
	var stores []engine.Volume
	for _, found := range all {
		if _, isStore := found.Labels[engine.LabelStore]; isStore {
			stores = append(stores, engine.Volume{Name: found.Name, Labels: found.Labels})
		}
	}
	return stores, err
}

func (v volumes) Get(ctx context.Context, name string) (engine.Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, err := v.engine.client.VolumeInspect(ctx, name)
	if errdefs.IsNotFound(err) {
		return engine.Volume{}, engine.ErrNotFound
	}
	return engine.Volume{Name: found.Name, Labels: found.Labels}, callFailure(callStore, err)
}

func (v volumes) Create(ctx context.Context, volume engine.Volume) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := v.engine.client.VolumeCreate(ctx, volumetypes.CreateOptions{Name: volume.Name, Labels: v.engine.labelled(volume.Labels)})
	return callFailure(callStore, err)
}

func (v volumes) Remove(ctx context.Context, name string) error {
	if err := v.engine.ping(ctx); err != nil {
		return err
	}
	return v.remove(ctx, name)
}

func (v volumes) remove(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := v.engine.client.VolumeRemove(ctx, name, false)
	switch {
	case errdefs.IsNotFound(err):
		return nil
	case errdefs.IsConflict(err):
		return fmt.Errorf("%w: %w", engine.ErrInUse, err)
	}
	return callFailure("remove a volume", err)
}

// all returns all volumes of the instance.
func (v volumes) all(ctx context.Context) ([]*volumetypes.Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, err := v.engine.client.VolumeList(ctx, volumetypes.ListOptions{Filters: v.engine.mine()})
	if err != nil {
		return nil, callFailure("list volumes", err)
	}
	return found.Volumes, nil
}

// RemoveUnused removes the instance's networks, and its volumes that are not stores. It calls removed for each. It returns
// an error for each that a container uses. It continues after a failure.
func (d *Engine) RemoveUnused(ctx context.Context, removed func(kind, name string)) error {
	volumes := volumes{d}
	all, err := volumes.all(ctx)
	failed := err
	for _, v := range all {
		if _, isStore := v.Labels[engine.LabelStore]; !isStore {
			failed = errors.Join(failed, report(removed, "volume", v.Name, volumes.remove(ctx, v.Name)))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	networks, err := d.client.NetworkList(ctx, networktypes.ListOptions{Filters: d.mine()})
	if err != nil {
		return errors.Join(failed, fmt.Errorf("list networks: %w", err))
	}
	for _, n := range networks {
		err := d.client.NetworkRemove(ctx, n.ID)
		if errdefs.IsNotFound(err) {
			continue
		}
		failed = errors.Join(failed, report(removed, "network", n.Name, err))
	}
	return failed
}

// report calls removed if err is nil, and otherwise returns err with a description.
func report(removed func(kind, name string), kind, name string, err error) error {
	if err != nil {
		return fmt.Errorf("remove %s %s: %w", kind, name, err)
	}
	removed(kind, name)
	return nil
}
