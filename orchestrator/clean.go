package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"
	containertypes "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"
)

// cleanTimeout bounds the removal of all that an instance has on an engine.
const cleanTimeout = 2 * time.Minute

// clean removes whatever carries the instance's label but the stores, and nothing else:
// containers first, because they use the rest. removed is told each thing that goes. It goes
// on after a failure.
func (d *docker) clean(ctx context.Context, removed func(kind, name string)) error {
	if err := d.ping(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, cleanTimeout)
	defer cancel()
	d.forget()
	err := d.cleanContainers(ctx, removed)
	d.dirty = err != nil
	return errors.Join(err, d.cleanVolumes(ctx, removed), d.cleanNetworks(ctx, removed))
}

// tidy removes containers that no job has any more: those of an earlier run, those that
// could not be removed, those of which the engine never told.
func (d *docker) tidy(ctx context.Context, log *slog.Logger) {
	if !d.dirty {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, cleanTimeout)
	defer cancel()
	err := d.cleanContainers(bounded, logRemoved(log))
	d.dirty = err != nil
	if err != nil && ctx.Err() == nil {
		log.Error("cannot remove what an earlier job left", "err", err)
		d.options.Observer.EngineFailed(callRemove)
	}
}

func logRemoved(log *slog.Logger) func(kind, name string) {
	return func(kind, name string) { log.Info("removed what was left behind", "kind", kind, "name", name) }
}

// mine selects what carries the instance's label. With a second label, Podman would select
// volumes that carry either.
func (d *docker) mine() filters.Args {
	return filters.NewArgs(filters.Arg("label", labelInstance+"="+d.options.Instance))
}

// cleanContainers removes the instance's containers, and looks again: an engine that says
// that one is not there, or gone, can be wrong.
func (d *docker) cleanContainers(ctx context.Context, removed func(kind, name string)) error {
	found, err := d.containers(ctx)
	if err != nil || len(found) == 0 {
		return err
	}
	var failed error
	for _, c := range found {
		err := d.forceRemove(ctx, c.ID)
		failed = errors.Join(failed, told(removed, "container", c.ID, err))
	}
	if failed != nil {
		return failed
	}
	if found, err = d.containers(ctx); err == nil && len(found) > 0 {
		err = fmt.Errorf("the container %s is still there", found[0].ID)
	}
	return err
}

// containers returns those of the instance.
func (d *docker) containers(ctx context.Context) ([]containertypes.Summary, error) {
	found, err := d.client.ContainerList(ctx, containertypes.ListOptions{All: true, Filters: d.mine()})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	return found, nil
}

func (d *docker) cleanVolumes(ctx context.Context, removed func(kind, name string)) error {
	volumes, err := d.volumes(ctx)
	if err != nil {
		return err
	}
	var failed error
	for _, v := range volumes {
		if isStore(v) {
			continue
		}
		err := d.client.VolumeRemove(ctx, v.Name, false)
		failed = errors.Join(failed, told(removed, "volume", v.Name, err))
	}
	return failed
}

// volumes returns those of the instance.
func (d *docker) volumes(ctx context.Context) ([]*volume.Volume, error) {
	found, err := d.client.VolumeList(ctx, volume.ListOptions{Filters: d.mine()})
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	return found.Volumes, nil
}

func (d *docker) cleanNetworks(ctx context.Context, removed func(kind, name string)) error {
	found, err := d.client.NetworkList(ctx, network.ListOptions{Filters: d.mine()})
	if err != nil {
		return fmt.Errorf("list networks: %w", err)
	}
	var failed error
	for _, n := range found {
		err := d.client.NetworkRemove(ctx, n.ID)
		failed = errors.Join(failed, told(removed, "network", n.Name, err))
	}
	return failed
}

// told tells of a removal, or returns why there was none. What is gone already needs
// neither.
func told(removed func(kind, name string), kind, name string, err error) error {
	switch {
	case err == nil:
		removed(kind, name)
	case !errdefs.IsNotFound(err):
		return fmt.Errorf("remove %s %s: %w", kind, name, err)
	}
	return nil
}
