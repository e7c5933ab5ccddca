package orchestrator

import (
	"context"
	"errors"
	"sync"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/nodes"
)

// A Cluster says on which engines jobs run, if not on one.
type Cluster struct {
	// Find returns the addresses at which there may be engines now. Two may be of one engine.
	Find func(ctx context.Context) ([]string, error)
	// Open returns the engine at an address, which need not be there.
	Open func(address string) (engine.Engine, error)
	// IsDraining reports whether the agent at an address was asked to stop: it goes on for its jobs, and
	// gets no more.
	IsDraining func(ctx context.Context, address string) (bool, error)
	// Platform is the builder's own, such as linux/amd64. Jobs that ask for none run there.
	Platform string
	// Program has the engine at an address put a program for a platform into containers, and returns the
	// program's build ID.
	Program func(ctx context.Context, address, platform string) (buildID string, err error)
}

const (
	// findInterval is how often a cluster's addresses are looked for.
	findInterval = 5 * time.Second
	// pingInterval is how often each of its engines is asked for a sign of life, and mostMissed how
	// many times in a row it may give none before its jobs count as lost.
	pingInterval = 5 * time.Second
	mostMissed   = 3
)

// A cluster is the engines of a Cluster, as they come and go.
//
// An address is asked for as long as it is found, or its engine answers: a name server forgets an engine
// that is cut off for a while, and only the engine's silence says that it is gone.
type cluster struct {
	Cluster
	b *Builder

	mu     sync.Mutex
	found  map[string]bool     // the addresses that were found last
	asked  map[string]bool     // those that a goroutine asks
	away   map[string]*absence // those of them at which no engine can be used
	lastAt map[string]string   // the IDs of the engines that were last at them
	byID   map[string]*node    // the engines that there are or were, by their IDs
}

// newCluster returns the engines that the options name, of which nobody has asked yet.
func (b *Builder) newCluster() *cluster {
	return &cluster{Cluster: *b.options.Cluster, b: b, asked: make(map[string]bool), away: make(map[string]*absence),
		lastAt: make(map[string]string), byID: make(map[string]*node)}
}

// follow uses the engines until ctx ends.
func (c *cluster) follow(ctx context.Context) {
	var asking sync.WaitGroup
	defer asking.Wait()
	ticker := time.NewTicker(findInterval)
	defer ticker.Stop()
	for {
		addresses, err := c.Find(ctx)
		if err != nil && ctx.Err() == nil {
			c.b.log.Warn("cannot look for nodes: those that are known stay", "err", err)
		}
		if err == nil {
			for _, address := range c.note(addresses) {
				asking.Go(func() { c.ask(ctx, address) })
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// note notes which addresses are found, and returns those that nobody asks yet.
func (c *cluster) note(addresses []string) (fresh []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.found = make(map[string]bool)
	for _, address := range addresses {
		c.found[address] = true
		if !c.asked[address] {
			c.asked[address] = true
			fresh = append(fresh, address)
		}
	}
	return fresh
}

// isWanted reports whether an address is still found. If not, it is asked no more.
func (c *cluster) isWanted(address string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.found[address] {
		delete(c.asked, address)
		delete(c.away, address)
		delete(c.lastAt, address)
	}
	return c.found[address]
}

// ask asks the engine at an address for signs of life, and has the builder use it while it gives some.
func (c *cluster) ask(ctx context.Context, address string) {
	log := c.b.log.With("address", address)
	ticker := time.NewTicker(pingInterval)
	defer ticker.Stop()
	for c.isWanted(address) {
		e, err := c.Open(address)
		if err != nil {
			log.Warn("cannot use a node", "err", err)
			return
		}
		if n := c.await(ctx, e, address, ticker.C); n != nil {
			log.Info("a node is there", "node", n.name)
			n.use(ctx, ticker.C)
		}
		e.Close()
		if ctx.Err() != nil {
			return
		}
	}
}

// await returns the engine at an address as a node when it answers; or nil if the address is not found
// any more, or ctx ends. An engine that is there by another address is none.
func (c *cluster) await(ctx context.Context, e engine.Engine, address string, tick <-chan time.Time) *node {
	for c.isWanted(address) {
		info, err := e.Info(ctx)
		if err == nil {
			var n *node
			if n, err = c.nodeOf(ctx, e, info, address); n != nil {
				return n
			}
		}
		if err != nil && ctx.Err() == nil && c.absent(address, err) {
			c.b.log.Warn("a node cannot be used", "address", address, "err", err)
		}
		select {
		case <-tick:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// nodeOf returns the node that an engine is, unless it is in use already and gets jobs. One that was there
// before has the slots that it had, of which jobs may have some still.
func (c *cluster) nodeOf(ctx context.Context, e engine.Engine, info engine.Info, address string) (*node, error) {
	buildID, err := c.Program(ctx, address, info.Platform)
	if err != nil {
		return nil, err
	}
	volumes, err := e.Volumes().List(ctx)
	if err != nil {
		return nil, err
	}
	drains, err := c.isDraining(ctx, address)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.present(address, info.ID)
	before := c.byID[info.ID]
	var n *node
	switch {
	case before == nil:
		n = c.b.newNode(e, &nodes.Node{Platform: info.Platform, Slots: c.b.options.MaxJobs}, c.b.options.Stores.OfNode(info.ID))
		n.name = c.nameOf(info, address)
	case !before.inUse:
		n = c.b.newNode(e, before.slots, c.b.options.Stores.OfNode(info.ID))
		n.name = c.nameOf(info, address)
	case drains || !before.drains && c.away[before.address] == nil:
		return nil, nil
	default: // an agent that was started in place of another
		n = &node{b: c.b, slots: before.slots, engine: e, stores: before.stores, leftovers: before.leftovers, name: before.name, after: before.maintained, takes: before.takes}
		n.stores.Use(e)
	}
	n.cluster, n.info, n.buildID, n.address, n.inUse, n.drains = c, info, buildID, address, true, drains
	n.maintained, n.replaced = make(chan struct{}), make(chan struct{})
	for _, v := range volumes {
		n.homes = append(n.homes, v.Labels[engine.LabelStore])
	}
	c.byID[info.ID] = n
	c.b.register(n)
	if n.after != nil {
		close(before.replaced) // now that no job comes to it any more
	}
	return n, nil
}

// platformFor returns the platform that a job asks for, by whatever name, if a node has it; else the builder's
// own, where an emulator may run its programs.
func (c *cluster) platformFor(arch string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.byID {
		if n.info.Platform == "linux/"+goArch(arch) {
			return n.info.Platform
		}
	}
	return c.Platform
}

// isEmpty reports whether no engine is in use.
func (c *cluster) isEmpty() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.byID {
		if n.inUse {
			return false
		}
	}
	return true
}

// use has jobs run on the node for as long as its engine gives signs of life. Then those that are there
// are lost. A node that is replaced is used until its jobs have ended.
func (n *node) use(ctx context.Context, tick <-chan time.Time) {
	maintaining, stop := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	tasks.Go(func() {
		defer close(n.maintained)
		if n.after != nil {
			<-n.after
		}
		n.maintain(maintaining)
	})
	defer tasks.Wait()
	defer stop()
	defer n.leave()
	n.b.options.Observer.NodeCame(n.name)
	n.offer()
	replaced := n.replaced
	for missed := 0; missed < mostMissed && (replaced != nil || n.hasJobs()); {
		select {
		case <-tick:
		case <-replaced:
			replaced = nil
			stop()
			continue
		case <-ctx.Done():
			return
		}
		_, err := n.engine.Info(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			missed = 0
			n.answers(ctx)
		default:
			missed++
			n.doubt(err)
			if missed == mostMissed {
				n.lose()
			}
		}
	}
}

// isDraining reports whether the agent at an address was asked to stop.
func (c *cluster) isDraining(ctx context.Context, address string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, pingInterval)
	defer cancel()
	return c.IsDraining(ctx, address)
}

// answers notes that the node's engine answers, and whether its agent was asked to stop. If the agent does not
// say, it is as before.
func (n *node) answers(ctx context.Context) {
	drains, err := n.cluster.isDraining(ctx, n.address)
	n.cluster.mu.Lock()
	if err == nil {
		n.drains = drains
	}
	delete(n.cluster.away, n.address)
	n.cluster.mu.Unlock()
	n.offer()
}

// doubt notes that the node's engine has not answered: it gets no jobs until it does. Those that run there go
// on, because it may have been cut off for a moment.
func (n *node) doubt(why error) {
	c := n.cluster
	c.mu.Lock()
	if n.inUse { // else something else may be at its address
		c.noteAbsent(n.address, why)
	}
	c.mu.Unlock()
	n.offer()
}

// offer has the queue give the node jobs while its engine answers and its agent was not asked to stop.
func (n *node) offer() {
	c := n.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byID[n.info.ID] != n || !n.inUse {
		return // another has its slots
	}
	away := c.away[n.address]
	takes := away == nil && !n.drains
	switch {
	case takes == n.takes:
		return
	case takes:
		n.b.log.Info("a node gets jobs", "node", n.name)
		n.b.queue.Up(n.slots, n.homes...)
	case away != nil:
		n.b.log.Warn("a node gets no more jobs until it answers", "node", n.name, "err", away.why)
		n.b.queue.Down(n.slots)
	default:
		n.b.log.Info("a node gets no more jobs: its agent was asked to stop", "node", n.name)
		n.b.queue.Down(n.slots)
	}
	n.takes = takes
}

// lose ends the jobs of a node that is gone.
func (n *node) lose() {
	n.b.log.Info("a node is gone", "node", n.name, "address", n.address)
	n.b.cancelOn(n, &engine.Failure{End: jobend.EngineGone, What: "The node " + n.name + " is gone, and the job with it.",
		Advice: "Send the job again; it runs on another node.", Cause: errNodeLost})
}

// leave has the node be in use no longer.
func (n *node) leave() {
	n.cluster.mu.Lock()
	defer n.cluster.mu.Unlock()
	n.inUse = false
}

var errNodeLost = errors.New("it has missed its pings")

// cancelOn ends what runs of jobs on a node.
func (b *Builder) cancelOn(n *node, cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, j := range b.running {
		if j.node == n {
			j.lose(cause)
		}
	}
}
