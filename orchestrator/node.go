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
	n := &node{b: b, slots: slots, engine: e, stores: stores.New(e, options, b.log)}
	n.leftovers = &leftovers{engine: e, builder: b.id, isRunning: n.isRunning, seen: make(map[string]sighting)}
	return n
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

// place notes that a job runs on the node that the queue knows as slots, until leave is called. The context
// ends with ctx, or when the node is lost.
func (b *Builder) place(ctx context.Context, r *run, slots *nodes.Node) (placed context.Context, leave func()) {
	placed, lose := context.WithCancelCause(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	j := b.running[r.id]
	r.node = b.nodes[slots]
	j.node, j.lose = r.node, lose
	return placed, func() {
		lose(nil)
		b.mu.Lock()
		defer b.mu.Unlock()
		j.node = nil
	}
}

// isRunning reports whether a job of this builder runs on the node.
func (n *node) isRunning(job string) bool {
	n.b.mu.Lock()
	defer n.b.mu.Unlock()
	j := n.b.running[job]
	return j != nil && j.node == n
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
