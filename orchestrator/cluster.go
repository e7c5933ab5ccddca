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

// A Cluster is how the builder finds and opens the engines of several machines, if it uses more than one.
type Cluster struct {
	// Find returns the addresses at which there may be engines now. Two addresses may belong to one engine. With
	// an error, some of them are those that it returned before, because it could not look them up.
	Find func(ctx context.Context) ([]string, error)
	// Open returns the engine at an address. It does not connect yet, so the engine may be unreachable.
	Open func(address string) (engine.Engine, error)
	// IsDraining reports whether the agent at an address was asked to stop. Such an agent keeps serving its
	// running jobs, and must get no new ones.
	IsDraining func(ctx context.Context, address string) (bool, error)
	// Platform is the builder's own, such as linux/amd64. Jobs that ask for no platform run on it.
	Platform string
	// Program sets which program the engine at an address puts into containers, one that runs on the
	// platform. It returns the program's build ID.
	Program func(ctx context.Context, address, platform string) (buildID string, err error)
}

const (
	// findInterval is how often Find is called.
	findInterval = 5 * time.Second
	// pingInterval is how often each engine is pinged. After mostMissed missed pings in a row, its jobs
	// are lost.
	pingInterval = 5 * time.Second
	mostMissed   = 3
	// forgetTime is after how long a lost node whose address is not found any more is forgotten. It is longer
	// than a machine needs to start again.
	forgetTime = 15 * time.Minute
	// settleTime is how long after its start a builder expects to find nodes of further platforms. Jobs for these wait as
	// long.
	settleTime = 15 * time.Second
)

// A cluster keeps track of the engines of a Cluster, which are added and removed while the builder runs.
//
// It pings an address as long as Find returns it or its engine answers. A name server may forget an engine
// that is unreachable for a moment, so an engine is lost only when it does not answer.
type cluster struct {
	Cluster
	b     *Builder
	begun time.Time

	mu     sync.Mutex
	found  map[string]bool     // the addresses that were found last
	pinged map[string]bool     // the addresses that a goroutine pings
	away   map[string]*absence // the pinged addresses at which no engine can be used
	lastAt map[string]string   // the ID of the last engine at each pinged address
	byID   map[string]*node    // all present and former engines, by their IDs
}

// newCluster returns the cluster of the builder's options. follow starts it.
func (b *Builder) newCluster() *cluster {
	return &cluster{Cluster: *b.options.Cluster, b: b, begun: time.Now(), found: make(map[string]bool), pinged: make(map[string]bool), away: make(map[string]*absence),
		lastAt: make(map[string]string), byID: make(map[string]*node)}
}

// follow finds and uses engines until ctx ends.
func (c *cluster) follow(ctx context.Context) {
	var pings sync.WaitGroup
	defer pings.Wait()
	ticker := time.NewTicker(findInterval)
	defer ticker.Stop()
	failed := false // whether the last Find has failed
	for {
		addresses, err := c.Find(ctx)
		if ctx.Err() == nil {
			failed = c.logLookup(err, failed)
		}
		for _, address := range c.note(addresses) {
			pings.Go(func() { c.followAddress(ctx, address) })
		}
		c.forget()
		c.letInstead()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// logLookup logs that Find fails, and when it succeeds again. failed says whether it failed before. The texts of its errors
// do not matter: those of a name server have another port each time.
func (c *cluster) logLookup(err error, failed bool) (fails bool) {
	switch {
	case err != nil && !failed:
		c.b.log.Warn("cannot look for nodes: those that are known stay", "err", err)
	case err == nil && failed:
		c.b.log.Info("the builder can look for nodes again")
	}
	return err != nil
}

// note records which addresses were found, and returns those that no goroutine pings yet.
func (c *cluster) note(addresses []string) (fresh []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.found)
	for _, address := range addresses {
		c.found[address] = true
		if !c.pinged[address] {
			c.pinged[address] = true
			fresh = append(fresh, address)
		}
	}
	return fresh
}

// forget forgets the nodes that were lost forgetTime ago and are not found any more.
func (c *cluster) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, n := range c.byID {
		if n.inUse || time.Since(n.left) < forgetTime || c.lastAt[n.address] == id || !c.b.queue.Remove(n.slots) {
			continue
		}
		c.b.log.Info("node forgotten: its address is not found any more", "node", n.name, "address", n.address)
		delete(c.byID, id)
		c.b.unregister(n)
		c.dropName(n.name)
	}
}

// letInstead lets jobs that wait for a platform which no known node has wait for the builder's own: the last node of theirs was
// forgotten, or the builder has just started and does not expect to find one any more.
func (c *cluster) letInstead() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isSettled() {
		return
	}
	known := make(map[string]bool)
	for _, n := range c.byID {
		known[n.info.Platform] = true
	}
	c.b.queue.Instead(known, c.Platform)
}

// isSettled reports whether the builder has had the time to find its nodes.
func (c *cluster) isSettled() bool { return time.Since(c.begun) >= settleTime }

// dropName tells the observer that a name is not used any more, if no node has it. Its caller holds mu.
func (c *cluster) dropName(name string) {
	for _, n := range c.byID {
		if n.name == name {
			return
		}
	}
	c.b.options.Observer.NodeGone(name)
}

// isWanted reports whether Find still returns an address. If not, it forgets the address, and the caller must
// stop pinging it.
func (c *cluster) isWanted(address string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.found[address] {
		delete(c.pinged, address)
		delete(c.away, address)
		delete(c.lastAt, address)
	}
	return c.found[address]
}

// followAddress pings the engine at an address, and uses it as a node while it answers.
func (c *cluster) followAddress(ctx context.Context, address string) {
	log := c.b.log.With("address", address)
	ticker := time.NewTicker(pingInterval)
	defer ticker.Stop()
	for c.isWanted(address) {
		e, err := c.Open(address)
		if err != nil {
			log.Warn("cannot use a node", "err", err)
			return
		}
		n := c.await(ctx, e, address, ticker.C)
		if n != nil {
			log.Info("node connected", "node", n.name)
			n.use(ctx, ticker.C)
		}
		e.Close()
		if n == nil || ctx.Err() != nil {
			return // if there is no node, another goroutine may ping the address by now
		}
	}
}

// await waits until the engine at an address can be used, and returns it as a node. It returns nil if Find no
// longer returns the address, or ctx ends. It keeps waiting while the engine is in use at another address.
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

// nodeOf returns the node of an engine, or nil if the engine already is a node that gets jobs. An engine that
// was used before keeps its slots, because jobs may still have some of them.
func (c *cluster) nodeOf(ctx context.Context, e engine.Engine, info engine.Info, address string) (*node, error) {
	if c.isUsed(info, address) {
		return nil, nil // the calls below would be made in vain, again and again
	}
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
	before := c.byID[info.ID]
	isTaken := before != nil && before.inUse && (drains || c.getsJobs(before))
	if isTaken {
		c.logTwin(before, info, address)
	}
	c.present(address, info.ID)
	var n *node
	switch {
	case isTaken:
		return nil, nil
	case before == nil:
		n = c.b.newNode(e, &nodes.Node{Platform: info.Platform, Slots: c.b.options.MaxJobs}, c.b.options.Stores.OfNode(info.ID))
		n.name = c.nameOf(info, address)
	case !before.inUse:
		n = c.b.newNode(e, before.slots, c.b.options.Stores.OfNode(info.ID))
		n.name = c.nameOf(info, address)
	default: // a new agent replaces the one before
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
	if before != nil {
		c.dropName(before.name)
	}
	if n.after != nil {
		close(before.replaced) // no new job can get the old node any more
	}
	return n, nil
}

// isUsed reports whether an engine already is a node that gets jobs at another address than this one.
func (c *cluster) isUsed(info engine.Info, address string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.byID[info.ID]
	if n == nil || !c.getsJobs(n) {
		return false
	}
	c.logTwin(n, info, address)
	c.present(address, info.ID)
	return true
}

// getsJobs reports whether a node gets jobs: its engine answers, and its agent was not asked to stop. Its caller holds mu.
func (c *cluster) getsJobs(n *node) bool { return n.inUse && !n.drains && c.away[n.address] == nil }

// platformFor returns the platform that a job asks for, if a node has it or may be found yet. Otherwise it returns the
// builder's own, where an emulator may run the job's programs. arch may be any name that goArch knows; it is empty if the job
// asks for none.
func (c *cluster) platformFor(arch string) string {
	if platform := "linux/" + goArch(arch); arch != "" && (c.hasPlatform(platform) || !c.isSettled()) {
		return platform
	}
	return c.Platform
}

// hasPlatform reports whether a known node has a platform, even if it is lost.
func (c *cluster) hasPlatform(platform string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.byID {
		if n.info.Platform == platform {
			return true
		}
	}
	return false
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

// use runs jobs on the node as long as its engine answers. When it no longer does, its jobs are lost. A node
// that was replaced, or at whose address another engine answers, is used until its jobs have ended.
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
		info, err := n.engine.Info(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && info.ID != n.info.ID && !n.hasJobs():
			n.suspect(errOtherEngine)
			return
		case err == nil:
			missed = 0
			n.answers(ctx)
		default:
			missed++
			n.suspect(err)
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

// answers records that the node's engine answers, and whether its agent was asked to stop. If the agent does
// not say, the last answer holds.
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

// suspect records that the node's engine has not answered. It gets no jobs until it does. Its running jobs
// continue, because the connection may be interrupted for a moment only.
func (n *node) suspect(why error) {
	c := n.cluster
	c.mu.Lock()
	if n.inUse { // otherwise another engine may have its address
		c.noteAbsent(n.address, why)
	}
	c.mu.Unlock()
	n.offer()
}

// offer updates the queue: the node gets jobs while its engine answers and its agent was not asked to stop.
func (n *node) offer() {
	c := n.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byID[n.info.ID] != n || !n.inUse {
		return // another node has its slots
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
		away.isNews() // await need not log it again
		n.b.queue.Down(n.slots)
	default:
		n.b.log.Info("a node gets no more jobs: its agent was asked to stop", "node", n.name)
		n.b.queue.Down(n.slots)
	}
	n.takes = takes
}

// lose ends the jobs of a node whose engine no longer answers.
func (n *node) lose() {
	n.b.log.Warn("node lost", "node", n.name, "address", n.address)
	n.b.cancelOn(n, &engine.Failure{End: jobend.EngineGone, What: "The node " + n.name + " is gone, and the job with it.",
		Advice: "Send the job again; it runs on another node.", Cause: errNodeLost})
}

// leave marks the node as no longer in use.
func (n *node) leave() {
	n.cluster.mu.Lock()
	defer n.cluster.mu.Unlock()
	n.inUse, n.left = false, time.Now()
}

// errOtherEngine is why a node is left whose machine was reinstalled, or whose engine was made anew, within a few seconds.
var errOtherEngine = errors.New("another engine answers at its address")

var errNodeLost = errors.New("it has missed its pings")

// cancelOn ends the jobs that run on a node.
func (b *Builder) cancelOn(n *node, cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, j := range b.running {
		if j.node == n {
			j.lose(cause)
		}
	}
}
