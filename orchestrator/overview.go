package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/nodes"
)

// An absence is an address at which no engine can be used.
type absence struct {
	since  time.Time
	why    error
	logged []string // the problems that the log has; at most maxLogged
}

// maxLogged bounds how many lines of the log are about one absence. Some problems have a text that is different each time.
const maxLogged = 5

// isNews reports whether the log has nothing about the present problem yet, and notes that it has from now on.
func (a *absence) isNews() bool {
	text := problem(a.why)
	if slices.Contains(a.logged, text) || len(a.logged) >= maxLogged {
		return false
	}
	a.logged = append(a.logged, text)
	return true
}

// add marks a node's state as not up, with the time and the reason.
func (a *absence) add(s *nodes.State) {
	s.Up, s.Since, s.Problem = false, a.since.UTC(), problem(a.why)
}

// absent records why no engine can be used at an address, and reports whether that is to be logged.
func (c *cluster) absent(address string, why error) (isNews bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.noteAbsent(address, why).isNews()
}

// noteAbsent is absent for callers that hold mu and log it themselves.
func (c *cluster) noteAbsent(address string, why error) *absence {
	a := c.away[address]
	if a == nil {
		a = &absence{since: time.Now()}
		c.away[address] = a
	}
	a.why = why
	return a
}

// present records which engine is at an address. Its caller holds mu.
func (c *cluster) present(address, id string) {
	c.lastAt[address] = id
	delete(c.away, address)
}

// nameOf returns the name of a node: that of its machine, with the address if another node has that name. Its caller
// holds mu.
func (c *cluster) nameOf(info engine.Info, address string) string {
	for _, name := range []string{info.Name, fmt.Sprintf("%s (%s)", info.Name, address)} {
		if !c.isTaken(name, info.ID) {
			return name
		}
	}
	// A node that was at this address has a new agent at another one, and has kept its name.
	return fmt.Sprintf("%s (%s, %s)", info.Name, address, info.ID)
}

// isTaken reports whether another node than that of the engine with an ID has a name and is listed. A lost node whose
// addresses have other engines now is not listed. Its caller holds mu.
func (c *cluster) isTaken(name, id string) bool {
	for other, n := range c.byID {
		if other == id || n.name != name {
			continue
		}
		if n.inUse || slices.Contains(slices.Collect(maps.Values(c.lastAt)), other) {
			return true
		}
	}
	return false
}

// logTwin logs once that an address is not used, because its engine has the ID of a node that is. Usually it is that node.
// But machines that are copies of each other have one ID, too. Its caller holds mu, and then calls present.
func (c *cluster) logTwin(n *node, info engine.Info, address string) {
	if c.lastAt[address] == info.ID {
		return // logged before
	}
	log := c.b.log.With("address", address, "node", n.name, "usedAt", n.address)
	if n.info.Name == info.Name {
		log.Info("an address is not used: its engine is that of a node which is used at another address")
		return
	}
	log.Warn("an address is not used: its engine has the ID of another machine's, of which it is probably a copy", "name", info.Name)
}

// Nodes returns the states of the cluster's nodes, and of the addresses where a node is expected but no engine
// can be used, sorted by name. It returns nil if the builder has one engine.
func (b *Builder) Nodes() []nodes.State {
	if b.cluster == nil {
		return nil
	}
	all := []nodes.State{}
	for _, s := range b.cluster.states() {
		if s.node != nil {
			s.Stores, s.StoreBytes = s.node.stores.Size()
		}
		all = append(all, s.State)
	}
	return all
}

// A nodeState is the state of a node, without its stores: their number and size are in files. node is nil for an address
// at which there was no engine so far.
type nodeState struct {
	nodes.State
	node *node
}

// states returns the states of what Nodes lists, sorted by name.
func (c *cluster) states() (states []nodeState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	listed := make(map[string]bool) // nodes, by their IDs
	for id, n := range c.byID {
		if n.inUse {
			state := n.state()
			if a := c.away[n.address]; a != nil {
				a.add(&state)
			}
			states = append(states, nodeState{state, n})
			listed[id] = true
		}
	}
	for address, a := range c.away {
		state := nodes.State{Name: address}
		id := c.lastAt[address]
		if listed[id] {
			continue
		}
		n := c.byID[id]
		if n != nil {
			state = n.state()
			listed[id] = true
		}
		a.add(&state)
		states = append(states, nodeState{state, n})
	}
	slices.SortFunc(states, func(a, b nodeState) int { return cmp.Compare(a.Name, b.Name) })
	return states
}

// state returns the state of a node without its stores, and as if its engine could be used; absence.add says that it
// cannot. Its caller holds the cluster's mu.
func (n *node) state() nodes.State {
	s := nodes.State{Name: n.name, Up: true, Platform: n.info.Platform, CPUs: n.info.CPUs, Memory: n.info.Memory,
		Draining: n.drains, Slots: n.slots.Slots, Running: n.b.queue.Taken(n.slots)}
	if err := n.imageFailure(); err != nil {
		s.Problem = problem(err)
	}
	return s
}

// sentence returns an error in words for people who do not read the server's log.
func sentence(err error) error {
	if f, ok := errors.AsType[*engine.Failure](err); ok {
		return errors.New(strings.TrimSpace(f.What + " " + f.Advice))
	}
	return err
}

// problem returns an error of a node as a sentence, without an engine's advice, which is for builders with one
// engine.
func problem(err error) string {
	if f, ok := errors.AsType[*engine.Failure](err); ok {
		return f.What
	}
	return err.Error()
}

// maxListed is how many nodes the error of ready lists.
const maxListed = 5

// ready returns nil as soon as one node is ready to run a job. Otherwise the error has the reason of each node.
func (c *cluster) ready(ctx context.Context) error {
	why := make(map[string]string) // by the nodes' names
	for _, s := range c.states() {
		switch {
		case !s.Up:
			why[s.Name] = s.Problem
		case s.Draining:
			why[s.Name] = "Its agent was asked to stop."
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	type answer struct {
		node string
		err  error
	}
	usable := c.usable()
	answers := make(chan answer, len(usable))
	for _, n := range usable {
		asking.Go(func() { answers <- answer{n.name, n.engine.Ready(ctx)} })
	}
	for range usable {
		a := <-answers
		if a.err == nil {
			return nil
		}
		c.b.log.Debug("a node is not ready", "node", a.node, "err", a.err)
		why[a.node] = problem(a.err)
	}
	if len(why) == 0 {
		return sentence(errNoNode)
	}
	text := "On no node can a job run."
	for i, name := range slices.Sorted(maps.Keys(why)) {
		if i == maxListed {
			text += fmt.Sprintf(" And so on, for %d more.", len(why)-maxListed)
			break
		}
		text += fmt.Sprintf(" %s: %s", name, why[name])
	}
	return errors.New(text)
}

// usable returns the nodes that get jobs.
func (c *cluster) usable() (all []*node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.byID {
		if n.inUse && n.takes {
			all = append(all, n)
		}
	}
	return all
}

// runs reports whether a node with a platform gets jobs.
func (c *cluster) runs(platform string) bool {
	return slices.ContainsFunc(c.usable(), func(n *node) bool { return n.info.Platform == platform })
}
