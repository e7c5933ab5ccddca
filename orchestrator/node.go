package orchestrator

import (
	"context"
	"sync"

	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/nodes"
	"iglu.sh/builder/orchestrator/stores"
)

// A node is an engine on which jobs run, and what the builder has and does there.
type node struct {
	b         *Builder
	slots     *nodes.Node // as the queue sees it
	engine    engine.Engine
	stores    *stores.Pool
	leftovers *leftovers

	cluster *cluster // nil: it is the one engine of its builder, as for what follows
	name    string   // of its machine
	homes   []string // the repositories whose stores it had when it came
	inUse   bool     // guarded by the cluster
}

// newNode returns the node that an engine is.
func (b *Builder) newNode(e engine.Engine, slots *nodes.Node, options stores.Options) *node {
	return &node{
		b:         b,
		slots:     slots,
		engine:    e,
		stores:    stores.New(e, options, b.log),
		leftovers: &leftovers{engine: e, builder: b.id, isRunning: b.isRunning, seen: make(map[string]sighting)},
	}
}

// register has the queue's slots be those of a node.
func (b *Builder) register(n *node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes[n.slots] = n
}

// addLocal has the builder use one engine, for good.
func (b *Builder) addLocal(e engine.Engine) {
	b.local = b.newNode(e, &nodes.Node{Slots: b.options.MaxJobs}, b.options.Stores)
	b.register(b.local)
	b.queue.Up(b.local.slots)
}

// place notes that a job runs on the node that the queue knows as slots, and returns that.
func (b *Builder) place(job string, slots *nodes.Node) *node {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.nodes[slots]
	b.running[job].node = n
	return n
}

// tend brings the job image onto the engine, so that the first job need not wait for it, looks after the
// stores, and removes what dead builders leave, until ctx ends.
func (n *node) tend(ctx context.Context) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() { n.sweepAtTimes(ctx) })
	if _, err := n.engine.Image(ctx, func(line string) { n.b.log.Info(line) }); err != nil && ctx.Err() == nil {
		n.b.log.Warn("cannot provide the job image; each job tries again", "err", err)
	}
	n.stores.Maintain(ctx, n.runTask)
}
