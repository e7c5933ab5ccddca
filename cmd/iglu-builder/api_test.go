package main

import (
	"context"
	"fmt"

	containertypes "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"
	dockerclient "github.com/docker/docker/client"
)

// What tests ask an engine again and again they ask through its API: the command docker takes a
// tenth of a second for each answer.

// engineAt returns a client of the engine at a host, as in DOCKER_HOST; empty is the machine's own.
func engineAt(host string) (*dockerclient.Client, error) {
	options := []dockerclient.Opt{dockerclient.FromEnv, dockerclient.WithAPIVersionNegotiation()}
	if host != "" {
		options = append(options, dockerclient.WithHost(host))
	}
	return dockerclient.NewClientWithOpts(options...)
}

// listed returns what carries the name of an instance on an engine, or of an empty one all
// there is: the IDs of containers or networks, or the names of volumes.
func listed(host, kind, instance string) (found []string, err error) {
	engine, err := engineAt(host)
	if err != nil {
		return nil, err
	}
	defer engine.Close()
	only := filters.NewArgs()
	if instance != "" {
		only.Add("label", "sh.iglu.builder.instance="+instance)
	}
	ctx := context.Background()
	switch kind {
	case "container":
		containers, err := engine.ContainerList(ctx, containertypes.ListOptions{All: true, Filters: only})
		for _, c := range containers {
			found = append(found, c.ID)
		}
		return found, err
	case "volume":
		volumes, err := engine.VolumeList(ctx, volume.ListOptions{Filters: only})
		for _, v := range volumes.Volumes {
			found = append(found, v.Name)
		}
		return found, err
	case "network":
		networks, err := engine.NetworkList(ctx, network.ListOptions{Filters: only})
		for _, n := range networks {
			found = append(found, n.ID)
		}
		return found, err
	}
	return nil, fmt.Errorf("no engine has a %s", kind)
}

// removeAll removes the volumes and networks of an instance, as far as nothing uses them.
func removeAll(host, instance string) {
	engine, err := engineAt(host)
	if err != nil {
		return
	}
	defer engine.Close()
	volumes, _ := listed(host, "volume", instance)
	for _, name := range volumes {
		engine.VolumeRemove(context.Background(), name, false)
	}
	networks, _ := listed(host, "network", instance)
	for _, id := range networks {
		engine.NetworkRemove(context.Background(), id)
	}
}
