package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"iglu.sh/builder/internal/agent"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/orchestrator/docker"
	"iglu.sh/builder/orchestrator/engine"
)

// A fleet is the engines that the server uses: one, or those of a cluster, which change while it runs.
type fleet struct {
	one     engine.Engine         // nil if there is a cluster
	cluster *orchestrator.Cluster // nil if there is one engine

	mu       sync.Mutex
	engines  map[string]*docker.Engine // those that are open, by their addresses
	programs map[string]string         // the files of agents on other platforms, by their addresses
}

// An ownProgram is a build of this program, which runs in the containers of jobs.
type ownProgram struct{ file, buildID, version string }

// ownPlatform is the platform of the server's own build.
const ownPlatform = runtime.GOOS + "/" + runtime.GOARCH

// openFleet returns the engines of the settings. own is the program that runs in their containers. For other
// platforms, the program is fetched from the agents there and kept in folder, which is emptied at each start.
func (s *Settings) openFleet(own ownProgram, folder string, log *slog.Logger) (*fleet, error) {
	f := &fleet{engines: make(map[string]*docker.Engine), programs: make(map[string]string)}
	if len(s.Nodes) == 0 {
		e, err := s.openOne(own.file, log)
		if err != nil {
			return nil, err
		}
		f.one = f.add("", e)
		return f, nil
	}
	keys, err := s.nodeKeys()
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(folder); err != nil {
		return nil, err
	}
	f.cluster = &orchestrator.Cluster{
		Platform: ownPlatform,
		Find:     (&finder{resolver: net.DefaultResolver, names: s.Nodes, log: log}).find,
		Open: func(address string) (engine.Engine, error) {
			e, err := s.openEngine("tcp://"+address, dialing(keys), own.file, log.With("address", address))
			if err != nil {
				return nil, err
			}
			return f.add(address, e), nil
		},
		IsDraining: keys.IsDraining,
		Program: func(ctx context.Context, address, platform string) (buildID string, err error) {
			used := own
			if platform != ownPlatform {
				if used, err = f.programOf(ctx, keys, address, platform, own.version, folder); err != nil {
					return "", err
				}
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			e := f.engines[address]
			if e == nil {
				return "", errors.New("it is not used any more")
			}
			e.UseProgram(used.file, platform)
			return used.buildID, nil
		},
	}
	return f, nil
}

// programOf fetches the program of an agent on another platform than the server's. Its version must be the
// server's, because the two programs talk to each other.
func (f *fleet) programOf(ctx context.Context, keys *agent.Keys, address, platform, version, folder string) (ownProgram, error) {
	file, id, err := keys.Program(ctx, address, version, folder)
	if other, ok := errors.AsType[*agent.VersionError](err); ok {
		return ownProgram{}, fmt.Errorf("it runs %s, and %w: start an agent of this server's version there, %s", platform, other, version)
	}
	if err == nil {
		err = f.keepProgram(address, file)
	}
	return ownProgram{file, id, version}, err
}

// keepProgram removes the file with the program that the agent at an address had before, unless that is the program of
// another agent, too. So there are never more files than agents. The error is that the file is not there any more, because
// it was that of another agent until a moment ago.
func (f *fleet) keepProgram(address, file string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := os.Stat(file); err != nil {
		return err
	}
	before, hadOne := f.programs[address]
	f.programs[address] = file
	if !hadOne || slices.Contains(slices.Collect(maps.Values(f.programs)), before) {
		return nil
	}
	return os.Remove(before)
}

// nodeKeys returns the keys for the agents of nodes.
func (s *Settings) nodeKeys() (*agent.Keys, error) {
	if s.AgentKeys == "" {
		return nil, errors.New("IGLU_NODES is set, and IGLU_AGENT_KEYS is not: nodes accept connections only from a server with their keys" +
			"\nhint: 'iglu-builder agent keys DIR' makes the keys; the server's are in DIR/server")
	}
	return s.readKeys()
}

// IsOfJobs reports whether a client is known to be possibly a job, by its address and that at which it has connected.
func (f *fleet) IsOfJobs(client, server netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.engines {
		if e.IsOfJobs(client, server) {
			return true
		}
	}
	return false
}

// StopTimeout returns how long after the request to stop the engine kills the server's container. It returns 0
// if that is not known, which is always so with a cluster.
func (f *fleet) StopTimeout() time.Duration {
	f.mu.Lock()
	e := f.engines[""]
	f.mu.Unlock()
	if e == nil {
		return 0
	}
	return e.StopTimeout()
}

// A resolver looks up the addresses of a name.
type resolver interface {
	LookupHost(ctx context.Context, host string) ([]string, error)
}

// resolve returns the addresses of agents, for each name. A name can have several, as tasks.agent has on Docker Swarm. A name
// that does not exist has none. For a name that cannot be looked up, there is a failure instead. The names are looked up at
// the same time, because a name server can take half a minute to fail.
func resolve(ctx context.Context, r resolver, names []string) (addresses [][]string, failures []error) {
	addresses, failures = make([][]string, len(names)), make([]error, len(names))
	var looking sync.WaitGroup
	for i, name := range names {
		looking.Go(func() { addresses[i], failures[i] = resolveOne(ctx, r, name) })
	}
	looking.Wait()
	return addresses, failures
}

// maxAddresses is how many addresses of a name are used. Each has connections of its own.
const maxAddresses = 1000

func resolveOne(ctx context.Context, r resolver, name string) (addresses []string, err error) {
	host, port, err := net.SplitHostPort(name)
	if err != nil {
		return nil, err // cannot happen: parseNodes has checked the names
	}
	found, err := r.LookupHost(ctx, host)
	if dns, ok := errors.AsType[*net.DNSError](err); err != nil && !(ok && dns.IsNotFound) {
		return nil, fmt.Errorf("look up %s: %w", host, err)
	}
	for _, address := range found {
		addresses = append(addresses, net.JoinHostPort(address, port))
	}
	if len(addresses) > maxAddresses {
		slices.Sort(addresses) // a name server answers in any order
		addresses = addresses[:maxAddresses]
	}
	return addresses, nil
}

// A finder looks up the names of agents again and again. It logs when a name begins to have no address, for example because
// it is misspelt, when it has one again, and when it begins to have too many.
type finder struct {
	resolver resolver
	names    []string
	log      *slog.Logger
	last     map[string][]string // the addresses that were found last, by name; may be nil
	without  []string            // the names that had no address last
}

// find returns the addresses of all names. Those of a name that cannot be looked up are the ones that were found last. The
// error says which names these are. find is not for concurrent use.
func (f *finder) find(ctx context.Context) (addresses []string, failed error) {
	now := make(map[string][]string)
	all, failures := resolve(ctx, f.resolver, f.names)
	for i, name := range f.names {
		found, err := all[i], failures[i]
		had := !slices.Contains(f.without, name)
		switch {
		case err != nil: // not known
			found, failed = f.last[name], errors.Join(failed, err)
		case len(found) == 0 && had:
			f.log.Warn("a name in IGLU_NODES has no address", "name", name)
			f.without = append(f.without, name)
		case len(found) > 0 && !had:
			f.log.Info("a name in IGLU_NODES has an address now", "name", name)
			f.without = slices.DeleteFunc(f.without, func(other string) bool { return other == name })
		}
		if len(found) == maxAddresses && len(f.last[name]) < maxAddresses {
			f.log.Warn("a name in IGLU_NODES has too many addresses: no others than these are used", "name", name, "used", maxAddresses)
		}
		now[name] = found
		addresses = append(addresses, found...)
	}
	f.last = now
	return addresses, failed
}

// parseNodes reads the addresses of agents.
func parseNodes(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	nodes, err := parseWords(text)
	if err != nil || slices.ContainsFunc(nodes, func(node string) bool { return !isHostPort(node) }) {
		return nil, errors.New("is not a list of addresses such as node-1:2376,node-2:2376 or tasks.agent:2376")
	}
	return nodes, nil
}

func isHostPort(text string) bool {
	host, port, err := net.SplitHostPort(text)
	number, portErr := strconv.ParseUint(port, 10, 16)
	return err == nil && portErr == nil && host != "" && number > 0
}
