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

// A network is the network that jobs are connected to.
type network struct {
	client   *client.Client
	instance string
	own      string // the name of the instance's own network
	name     string // the name of the network that is set; empty: the instance's own network is used

	subnets atomic.Pointer[[]subnet] // nil: not known yet
}

// ensure returns the name or ID of the network for jobs. It creates the instance's own network if that is used and does
// not exist. Containers on that network cannot reach each other. For lock, see makeOne.
func (n *network) ensure(ctx context.Context, lock nameLock) (string, error) {
	switch n.name {
	case "":
	case noNetwork: // Podman has no network of that name to inspect
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
	unlock, err := lock.acquire(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	ctx, cancel := outliving(ctx) // the lock is held until the network exists
	defer cancel()
	return n.makeOne(ctx)
}

// look stores the subnets of the instance's own network, if another builder has created it. Without that, a job of the
// other builder could be a client of this one until this one has a job. If there is no network, for example because
// somebody has pruned it, look forgets the subnets: the engine may give them to a network of clients. It ignores errors:
// the next job returns them.
func (n *network) look(ctx context.Context) {
	before := n.subnets.Load()
	found, err := n.find(ctx)
	switch {
	case err != nil:
	case len(found) > 0:
		n.use(found)
	default:
		n.subnets.CompareAndSwap(before, nil) // unless a job has created the network meanwhile
	}
}

// makeOne creates the network if it does not exist, and removes duplicates. Docker allows two networks of the same name,
// but can then use neither. So only one builder at a time may create the network: the caller holds the lock.
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
		err = errors.New("the network does not exist although it has just been created")
	}
	return n.use(found), err
}

// poolsUsedUp are parts of the errors of engines that have no addresses left for a new network: Docker up to 25, Docker
// from 26 on, and Podman. By default, Docker has addresses for 30 networks.
var poolsUsedUp = []string{"non-overlapping IPv4 address pool", "all predefined address pools have been fully subnetted", "could not find free subnet"}

// hintAtPools returns an error of the engine. If the engine has no addresses left, it returns a failure that says what to
// do instead.
func hintAtPools(err error) error {
	if !slices.ContainsFunc(poolsUsedUp, func(text string) bool { return strings.Contains(err.Error(), text) }) {
		return err
	}
	return &engine.Failure{Cause: err, Call: callNetwork, What: "The container engine has no addresses left for the jobs' network.",
		Advice: "Remove networks that nothing uses (docker network prune), give the engine more addresses (default-address-pools), " +
			"or set IGLU_JOB_NETWORK to a network that is there."}
}

// Podman looks at every network interface of its machine to find a free subnet. It fails with interfaceGone if an
// interface is removed meanwhile, which happens whenever a container ends.
const (
	interfaceGone = "no such network interface"
	networkTries  = 5
)

// find returns all networks with the name of the instance's own network, the oldest first.
func (n *network) find(ctx context.Context) ([]networktypes.Summary, error) {
	found, err := n.client.NetworkList(ctx, networktypes.ListOptions{Filters: filters.NewArgs(
		filters.Arg("name", "^"+regexp.QuoteMeta(n.own)+"$"),
		filters.Arg("label", engine.LabelInstance+"="+n.instance),
	)})
	slices.SortFunc(found, func(a, b networktypes.Summary) int { return a.Created.Compare(b.Created) })
	return found, err
}

// use returns the ID of the first network, and stores its subnets. It returns "" if there is no network.
func (n *network) use(found []networktypes.Summary) (id string) {
	if len(found) == 0 {
		return ""
	}
	n.noteSubnets(found[0].IPAM)
	return found[0].ID
}

// A subnet has addresses of jobs.
type subnet struct {
	netip.Prefix
	bridge netip.Addr // the address that the engine's machine has on it, if that may be another machine
}

// noteSubnets stores the subnets of the addresses that jobs have.
func (n *network) noteSubnets(ipam networktypes.IPAM) {
	// A network that is set may be one that the builder's own container is connected to.
	mayBeElsewhere := n.name == "" && !strings.HasPrefix(n.client.DaemonHost(), "unix://")
	var subnets []subnet
	for _, config := range ipam.Config {
		prefix, err := netip.ParsePrefix(config.Subnet)
		if err != nil {
			continue
		}
		one := subnet{Prefix: prefix.Masked()}
		if mayBeElsewhere {
			one.bridge, _ = netip.ParseAddr(config.Gateway)
		}
		subnets = append(subnets, one)
	}
	n.subnets.Store(&subnets)
}

// contains reports whether a client is a job, as far as the addresses say that at which it and the server have connected to
// each other. It returns false if the network was not used yet.
//
// Engines give out addresses in the same order, so the builder's own bridge on another machine often has those of a network
// that the server is on. Its jobs come from the address of their machine, so these clients are not jobs. Only where the
// server itself has the bridge's address is the bridge on its machine.
func (n *network) contains(client, server netip.Addr) bool {
	subnets := n.subnets.Load()
	return subnets != nil && slices.ContainsFunc(*subnets, func(s subnet) bool {
		isElsewhere := s.bridge.IsValid() && s.Contains(server.Unmap()) && server.Unmap() != s.bridge
		return s.Contains(client.Unmap()) && !isElsewhere
	})
}
