package orchestrator

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/nodes"
	"iglu.sh/builder/orchestrator/stores"
)

// A node is an engine on which jobs run, at one address, with the stores and the maintenance of that engine.
type node struct {
	b         *Builder
	slots     *nodes.Node // as the queue sees it
	engine    engine.Engine
	stores    *stores.Pool
	leftovers *leftovers
	buildID   string // of the program in its containers
	noImage   error  // why the engine has no job image; nil if it has one; guarded by the builder's mu

	isAway atomic.Bool // it did not answer when it was asked last; see logAnswer

	// silent is since when the engine has not answered the jobs of the queue, and asked when they have asked last. Both
	// are guarded by the builder's mu.
	silent, asked time.Time

	// The fields from here on are set for the nodes of a cluster only. cluster is nil if this is the
	// builder's only engine.
	cluster    *cluster
	name       string // of its machine; unique among the nodes that are listed
	address    string // of its engine
	info       engine.Info
	homes      []string      // the repositories whose stores it had when it was added
	after      chan struct{} // closed when the maintenance of the node that this one replaces has ended; nil if it replaces none
	maintained chan struct{} // closed when the maintenance of this node has ended

	// Guarded by the cluster's mu.
	inUse    bool
	left     time.Time     // when it was in use last
	drains   bool          // its agent was asked to stop, so it gets no more jobs
	takes    bool          // the queue gives it jobs
	replaced chan struct{} // closed when another node replaces it; it then only finishes its jobs
}

// newNode returns a node for an engine.
func (b *Builder) newNode(e engine.Engine, slots *nodes.Node, options stores.Options) *node {
	n := &node{b: b, slots: slots, engine: e, buildID: b.options.BuildID, stores: stores.New(e, options, b.log)}
	n.leftovers = &leftovers{builder: b.id, isRunning: n.isRunning, asked: n.logAnswer, seen: make(map[string]sighting)}
	return n
}

// logAnswer logs that the builder's only engine does not answer, and when it does again. err is the error of a call. A
// cluster does that for its nodes (offer).
func (n *node) logAnswer(err error) {
	f, _ := errors.AsType[*engine.Failure](err)
	isAway := f != nil && f.End == jobend.EngineGone
	switch wasAway := n.isAway.Swap(isAway); {
	case isAway == wasAway || n.cluster != nil:
	case isAway:
		n.b.log.Warn("the container engine does not answer", "err", err)
	default:
		n.b.log.Info("the container engine answers again")
	}
}

// machine returns the node's architecture as Go names it, such as amd64.
func (n *node) machine() string {
	if n.cluster == nil {
		return runtime.GOARCH // the engine refuses another
	}
	return strings.TrimPrefix(n.info.Platform, "linux/")
}

// register records to which node the queue's slots belong.
func (b *Builder) register(n *node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes[n.slots] = n
}

// unregister undoes register, when no job has a slot of the node.
func (b *Builder) unregister(n *node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.nodes, n.slots)
}

// addLocal makes an engine the builder's only node.
func (b *Builder) addLocal(e engine.Engine) {
	b.local = b.newNode(e, &nodes.Node{Slots: b.options.MaxJobs}, b.options.Stores)
	b.register(b.local)
	b.queue.Up(b.local.slots)
}

// place records that a job runs on the node of these slots, until leave is called. The returned context ends
// with ctx, or when the node is lost.
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

// isRunning reports whether a job of this builder runs on the node's engine. The job may use it at another
// address.
func (n *node) isRunning(job string) bool {
	n.b.mu.Lock()
	defer n.b.mu.Unlock()
	j := n.b.running[job]
	return j != nil && j.node != nil && j.node.slots == n.slots
}

// hasJobs reports whether jobs run on the node, at this address of its engine.
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

// mayAnswer reports whether the engine does not answer now, but may do so soon: it has not been silent for engineWait.
func (n *node) mayAnswer(ctx context.Context) bool {
	_, err := n.engine.Info(ctx)
	f, _ := errors.AsType[*engine.Failure](err)
	n.b.mu.Lock()
	defer n.b.mu.Unlock()
	if f == nil || f.End != jobend.EngineGone {
		n.asked = time.Time{}
		return false
	}
	if time.Since(n.asked) > engineWait { // it has probably answered since
		n.silent = time.Now()
	}
	n.asked = time.Now()
	return time.Since(n.silent) < engineWait
}

// named adds the node's name to an engine's failure, if the builder uses a cluster.
func (n *node) named(err error) error {
	f, ok := errors.AsType[*engine.Failure](err)
	if !ok || f.Call == "" || n.cluster == nil {
		return err
	}
	named := *f
	named.What = "On node " + n.name + " " + lowerFirst(f.What)
	return &named
}

// maintain runs until ctx ends. It keeps the job image on the engine, so that no job waits for it, maintains
// the stores, and removes what crashed builders have left.
func (n *node) maintain(ctx context.Context) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() { n.sweepAtTimes(ctx) })
	n.provideImage(ctx)
	tasks.Go(func() { n.keepImage(ctx) })
	n.stores.Maintain(ctx, n.runTask)
}

// provideImage makes sure that the engine has the job image, and records whether it has.
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

// imageInterval is how often a node without the job image tries again to get it.
const imageInterval = time.Minute

// keepImage tries again to provide the job image whenever it is missing, until ctx ends. It cannot leave that
// to the next job, because a builder that is not ready may get none.
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

// imageFailure returns why the last attempt to provide the job image failed, or nil if it did not fail.
func (n *node) imageFailure() error {
	n.b.mu.Lock()
	defer n.b.mu.Unlock()
	return n.noImage
}
