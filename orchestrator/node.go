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
}

// addNode has the builder use an engine.
func (b *Builder) addNode(e engine.Engine) *node {
	n := &node{
		b:         b,
		slots:     &nodes.Node{Slots: b.options.MaxJobs},
		engine:    e,
		stores:    stores.New(e, b.options.Stores, b.log),
		leftovers: &leftovers{engine: e, builder: b.id, isRunning: b.isRunning, seen: make(map[string]sighting)},
	}
	b.mu.Lock()
	b.nodes[n.slots] = n
	b.mu.Unlock()
	b.queue.Up(n.slots)
	return n
}

// nodeOf returns the node that the queue knows as slots.
func (b *Builder) nodeOf(slots *nodes.Node) *node {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.nodes[slots]
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
