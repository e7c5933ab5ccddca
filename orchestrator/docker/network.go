package docker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/filters"
	networktypes "github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"

	"iglu.sh/builder/orchestrator/engine"
)

// noNetwork is the engine's name for no network at all.
const noNetwork = "none"

// A network is the one that jobs are connected to.
type network struct {
	client   *client.Client
	instance string
	own      string // the name of the instance's own
	name     string // of the one that is set; empty: it is the instance's own

	subnets atomic.Pointer[[]netip.Prefix] // nil: not known yet
}

// ensure returns the name or ID of the network for jobs, and makes it if it is the instance's own and
// not there. Containers on it do not reach each other. lock keeps other builders away; see makeOne.
func (n *network) ensure(ctx context.Context, lock nameLock) (string, error) {
	switch n.name {
	case "":
	case noNetwork: // which Podman does not know as a network
		return n.name, nil
	default:
		found, err := n.client.NetworkInspect(ctx, n.name, networktypes.InspectOptions{})
		if err == nil {
			n.noteSubnets(found.IPAM)
		}
		if errdefs.IsNotFound(err) {
			err = &engine.Failure{Cause: err, What: fmt.Sprintf("The network %s is not on the container engine.", n.name),
				Advice: "Make it there, or set IGLU_JOB_NETWORK to one that is, or to nothing for one of the builder's own."}
		}
		return n.name, err
	}
	found, err := n.find(ctx)
	if err != nil || len(found) == 1 {
		return n.use(found), err
	}
	unlock, err := lock.take(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	return n.makeOne(ctx)
}

// makeOne makes the network if it is not there, or removes those that are there too often. Docker lets
// two networks have one name, and can then use neither. So builders make it one at a time: who does has
// a container of a name that the engine gives only once.
func (n *network) makeOne(ctx context.Context) (id string, err error) {
	found, err := n.find(ctx)
	if err != nil {
		return "", err
	}
	for _, other := range found[min(1, len(found)):] {
		if err := n.client.NetworkRemove(ctx, other.ID); err != nil && !errdefs.IsNotFound(err) {
			return "", err
		}
	}
	if len(found) > 0 {
		return n.use(found), nil
	}
	options := networktypes.CreateOptions{
		Driver:  "bridge",
		Labels:  map[string]string{engine.LabelInstance: n.instance},
		Options: map[string]string{"com.docker.network.bridge.enable_icc": "false"},
	}
	_, err = n.client.NetworkCreate(ctx, n.own, options)
	for tries := 1; err != nil && strings.Contains(err.Error(), interfaceGone) && tries < networkTries; tries++ {
		_, err = n.client.NetworkCreate(ctx, n.own, options)
	}
	if err != nil {
		return "", hintAtPools(err)
	}
	if found, err = n.find(ctx); err == nil && len(found) == 0 {
		err = errors.New("the network is not there although it has just been made")
	}
	return n.use(found), err
}

// poolsUsedUp are parts of what engines say when all the addresses that they have for networks are in
// networks: Docker up to 25 and from 26 on, and Podman. By default Docker has enough for 30.
var poolsUsedUp = []string{"non-overlapping IPv4 address pool", "all predefined address pools have been fully subnetted", "could not find free subnet"}

// hintAtPools returns an error of the engine, or in its place what to do if it has no addresses left.
func hintAtPools(err error) error {
	if !slices.ContainsFunc(poolsUsedUp, func(text string) bool { return strings.Contains(err.Error(), text) }) {
		return err
	}
	return &engine.Failure{Cause: err, Call: callNetwork, What: "The container engine has no addresses left for the jobs' network.",
		Advice: "Remove networks that nothing uses (docker network prune), give the engine more addresses (default-address-pools), " +
			"or set IGLU_JOB_NETWORK to a network that is there."}
}

// Podman looks at every network interface of its machine to find a free network, and fails
// with interfaceGone if one goes meanwhile, as that of any container does.
const (
	interfaceGone = "no such network interface"
	networkTries  = 5
)

// find returns the networks of the name of the instance's own, the oldest first.
func (n *network) find(ctx context.Context) ([]networktypes.Summary, error) {
	found, err := n.client.NetworkList(ctx, networktypes.ListOptions{Filters: filters.NewArgs(
		filters.Arg("name", "^"+regexp.QuoteMeta(n.own)+"$"),
		filters.Arg("label", engine.LabelInstance+"="+n.instance),
	)})
	slices.SortFunc(found, func(a, b networktypes.Summary) int { return a.Created.Compare(b.Created) })
	return found, err
}

// use returns the ID of the first of some networks, and notes its addresses.
func (n *network) use(found []networktypes.Summary) (id string) {
	if len(found) == 0 {
		return ""
	}
	n.noteSubnets(found[0].IPAM)
	return found[0].ID
}

// noteSubnets notes which addresses jobs have.
func (n *network) noteSubnets(ipam networktypes.IPAM) {
	var subnets []netip.Prefix
	for _, config := range ipam.Config {
		if subnet, err := netip.ParsePrefix(config.Subnet); err == nil {
			subnets = append(subnets, subnet.Masked())
		}
	}
	n.subnets.Store(&subnets)
}

// contains reports whether an address is of the network. Until there has been a job, that need not be
// known.
func (n *network) contains(addr netip.Addr) bool {
	subnets := n.subnets.Load()
	return subnets != nil && slices.ContainsFunc(*subnets, func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) })
}
