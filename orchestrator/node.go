package orchestrator

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/nodes"
	"iglu.sh/builder/orchestrator/stores"
)

// A node is an engine on which jobs run, reached at one address, and what the builder has and does there.
type node struct {
	b         *Builder
	slots     *nodes.Node // as the queue sees it
	engine    engine.Engine
	stores    *stores.Pool
	leftovers *leftovers
	buildID   string // of the program in its containers
	noImage   error  // why the engine has no job image; nil if it has; guarded by the builder

	cluster    *cluster // nil: it is the one engine of its builder, as for what follows
	name       string   // of its machine; no other node of the cluster has it
	address    string   // at which its engine is
	info       engine.Info
	homes      []string      // the repositories whose stores it had when it came
	after      chan struct{} // closed when nothing looks after the node any more whose place it has taken; nil: none
	maintained chan struct{} // the same of this one

	// Guarded by the cluster.
	inUse    bool
	drains   bool          // its agent was asked to stop, so it gets no more jobs
	takes    bool          // the queue gives it jobs
	replaced chan struct{} // closed when another has taken its place: it goes on for the jobs that it has
}

// newNode returns the node that an engine is.
func (b *Builder) newNode(e engine.Engine, slots *nodes.Node, options stores.Options) *node {
	n := &node{b: b, slots: slots, engine: e, buildID: b.options.BuildID, stores: stores.New(e, options, b.log)}
	n.leftovers = &leftovers{builder: b.id, isRunning: n.isRunning, seen: make(map[string]sighting)}
	return n
}

// machine returns Go's name of the machine that the node is.
func (n *node) machine() string {
	if n.cluster == nil {
		return runtime.GOARCH // the engine refuses another
	}
	return strings.TrimPrefix(n.info.Platform, "linux/")
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

// isRunning reports whether a job of this builder runs on the node's engine, at whichever address.
func (n *node) isRunning(job string) bool {
	n.b.mu.Lock()
	defer n.b.mu.Unlock()
	j := n.b.running[job]
	return j != nil && j.node != nil && j.node.slots == n.slots
}

// hasJobs reports whether jobs run on the node, at its address.
func (n *node) hasJobs() bool {
	n.b.mu.Lock()
	defer n.b.mu.Unlock()
	for _, j := range n.b.running {
		if j.node == n {
			return true
		}
	}
	return false
}

// named says of a failure of an engine which node's it is, where there are several.
func (n *node) named(err error) error {
	f, ok := errors.AsType[*engine.Failure](err)
	if !ok || f.Call == "" || n.cluster == nil {
		return err
	}
	named := *f
	named.What = "On node " + n.name + " " + lowerFirst(f.What)
	return &named
}

// maintain keeps the job image on the engine, so that no job need wait for it, looks after the stores, and
// removes what dead builders leave, until ctx ends.
func (n *node) maintain(ctx context.Context) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() { n.sweepAtTimes(ctx) })
	n.provideImage(ctx)
	tasks.Go(func() { n.keepImage(ctx) })
	n.stores.Maintain(ctx, n.runTask)
}

// provideImage brings the job image onto the engine.
func (n *node) provideImage(ctx context.Context) {
	_, err := n.engine.Image(ctx, func(line string) { n.b.log.Info(line) })
	if ctx.Err() != nil {
		return
	}
	n.b.mu.Lock()
	known := n.noImage != nil
	n.noImage = err
	n.b.mu.Unlock()
	switch {
	case err != nil && !known:
		n.b.log.Warn("cannot provide the job image: it is tried again every "+imageInterval.String()+", and by each job", "node", n.name, "err", err)
	case err == nil && known:
		n.b.log.Info("the job image is there", "node", n.name)
	}
}

// imageInterval is how often a node without the job image is asked for it.
const imageInterval = time.Minute

// keepImage provides the job image again where that has failed, and where a job could not have it, until ctx
// ends: a builder that is not ready for want of it may get no job that would.
func (n *node) keepImage(ctx context.Context) {
	ticker := time.NewTicker(imageInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		f, _ := errors.AsType[*engine.Failure](n.engine.Ready(ctx))
		if n.imageFailure() != nil || f != nil && f.End == jobend.NoImage {
			n.provideImage(ctx)
		}
	}
}

// imageFailure returns why the engine has no job image, as far as is known; nil if it has.
func (n *node) imageFailure() error {
	n.b.mu.Lock()
	defer n.b.mu.Unlock()
	return n.noImage
}
