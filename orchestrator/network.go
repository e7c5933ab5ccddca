package orchestrator

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
)

// This file is the network that jobs are connected to.

// noNetwork is the engine's name for no network at all.
const noNetwork = "none"

// ensureNetwork returns the name or ID of the network for jobs, and makes it if it is the
// builder's own and not there. Containers on it do not reach each other.
func (d *docker) ensureNetwork(ctx context.Context) (string, error) {
	switch name := d.options.Network; name {
	case "":
	case noNetwork: // which Podman does not know as a network
		return name, nil
	default:
		found, err := d.client.NetworkInspect(ctx, name, network.InspectOptions{})
		d.noteSubnets(found.IPAM)
		if errdefs.IsNotFound(err) {
			err = &failure{cause: err, what: fmt.Sprintf("The network %s is not on the container engine.", name),
				advice: "Make it there, or set IGLU_JOB_NETWORK to one that is, or to nothing for one of the builder's own."}
		}
		return name, err
	}
	if id, err := d.findNetwork(ctx); id != "" || err != nil {
		return id, err
	}
	options := network.CreateOptions{
		Driver:  "bridge",
		Labels:  map[string]string{labelInstance: d.options.Instance},
		Options: map[string]string{"com.docker.network.bridge.enable_icc": "false"},
	}
	_, err := d.client.NetworkCreate(ctx, d.name("jobs"), options)
	for tries := 1; err != nil && strings.Contains(err.Error(), interfaceGone) && tries < networkTries; tries++ {
		_, err = d.client.NetworkCreate(ctx, d.name("jobs"), options)
	}
	if err != nil {
		return "", err
	}
	return d.findNetwork(ctx) // which need not be the one just made
}

// Podman looks at every network interface of its machine to find a free network, and fails
// with interfaceGone if one goes meanwhile, as that of any container does.
const (
	interfaceGone = "no such network interface"
	networkTries  = 5
)

// findNetwork returns the ID of the builder's own network, or "". Docker lets two have one
// name, when two builders of one instance name make it at once, and can then use neither:
// the oldest stays.
func (d *docker) findNetwork(ctx context.Context) (string, error) {
	found, err := d.client.NetworkList(ctx, network.ListOptions{Filters: filters.NewArgs(
		filters.Arg("name", "^"+regexp.QuoteMeta(d.name("jobs"))+"$"),
		filters.Arg("label", labelInstance+"="+d.options.Instance),
	)})
	if err != nil || len(found) == 0 {
		return "", err
	}
	slices.SortFunc(found, func(a, b network.Summary) int { return a.Created.Compare(b.Created) })
	for _, other := range found[1:] {
		if err := d.client.NetworkRemove(ctx, other.ID); err != nil && !errdefs.IsNotFound(err) {
			return "", err
		}
	}
	d.noteSubnets(found[0].IPAM)
	return found[0].ID, nil
}

// noteSubnets notes which addresses jobs have.
func (d *docker) noteSubnets(ipam network.IPAM) {
	var subnets []netip.Prefix
	for _, config := range ipam.Config {
		if subnet, err := netip.ParsePrefix(config.Subnet); err == nil {
			subnets = append(subnets, subnet.Masked())
		}
	}
	d.subnets.Store(&subnets)
}

// isOfJobs reports whether an address is of the network that jobs are connected to. Until there has
// been a job, that need not be known.
func (d *docker) isOfJobs(addr netip.Addr) bool {
	subnets := d.subnets.Load()
	return subnets != nil && slices.ContainsFunc(*subnets, func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) })
}
