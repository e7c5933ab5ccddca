// Package push sends what a build yields from a Nix store to a binary cache: while the
// build goes on, and all of it when it has ended.
//
// What is sent is the closure of the paths that were built here and of those that the build was
// about, whenever these were built, less what a trusted upstream has signed, less what the cache
// has. A path goes up after those that it refers to, is read back where the cache can be read, and
// counts only then.
//
// What the cache has is told by its answer to the list of hashes, until it turns out that
// this tells nothing: then each path is looked for before it is sent.
//
// One goroutine at a time asks the store and plans (planner): the one that watches the store
// while the build goes on, then the caller of Finish. A fixed number of others send (sender).
package push

import (
	"context"
	"maps"
	"net"
	"slices"
	"time"

	"iglu.sh/builder/internal/cachix"
)

// Options say where paths go.
type Options struct {
	Target     string // the cache's address, which ends in its name
	Token      string // its API key
	SigningKey string // signs what is pushed; empty: the cache has to
	// Upstream holds public keys, NAME:BASE64 each. A path that one of them has signed
	// is not pushed. The cache's own do not count, should they be among them.
	Upstream []string
	Uploads  int // how many paths go up at once; 0 is the default of cachix.Options
	PartSize int // of the parts that they go up in, in bytes; likewise
	// Progress, unless nil, is called whenever it changes how many paths and bytes have been
	// sent, or how many paths are to be in all.
	Progress func(done, expected int, bytes int64)

	dial func(ctx context.Context, network, address string) (net.Conn, error) // in tests
}

// extraParts is how many parts may be in memory beside one for each upload, so that a
// single large path goes out in parts side by side.
const extraParts = 4

// besideParts is what a push takes of memory beside what is being sent, in bytes: what is
// known of some 100,000 paths, connections, and what the garbage collector leaves.
const besideParts = 64 << 20

// Memory returns how many bytes a push takes at most, however much it has to send.
func (o Options) Memory() int64 { return o.client().Memory() + besideParts }

// client returns the options of the cache's client.
func (o Options) client() cachix.Options {
	options := cachix.Options{Uploads: o.Uploads, PartSize: o.PartSize, Dial: o.dial}
	if o.Uploads > 0 {
		options.Parts = o.Uploads + extraParts
	}
	return options
}

// A Pusher pushes what a build yields to one cache. Its planner finds the paths, its queue orders
// them, and its sender sends them.
type Pusher struct {
	client   *cachix.Client
	upstream trust
	// substituter is the cache as Nix can read it, if it is private.
	substituter Substituter
	say         func(format string, args ...any)
	sender      *sender
	tally       *tally

	planner *planner
	queue   *queue
	ended   chan struct{} // closed when the build has ended
	watched chan error    // gets the watcher's error, or nil, when it ends
}

// Watch begins to push what is built from now on in a store, until ctx ends. Finish
// has to be called after it.
func (p *Pusher) Watch(ctx context.Context, store Store) error {
	planner, err := newPlanner(store, p.upstream, p.say, p.tally)
	if err != nil {
		return err
	}
	p.planner = planner
	p.queue = newQueue(p.client.Uploads(), func(path cachix.Path) error { return p.sender.send(ctx, path) })
	p.ended, p.watched = make(chan struct{}), make(chan error, 1)
	go func() { p.watched <- p.watch(ctx) }()
	return nil
}

const (
	// watchInterval is how often the store is asked for what is new, and watchShare
	// how many times longer the pause is than that takes, in a store of many paths.
	watchInterval = time.Second
	watchShare    = 20
	// awayInterval is how long the pause is after the cache could not be asked.
	awayInterval = 30 * time.Second
)

// watch adds what is built until the build has ended. A cache that cannot be asked now
// is asked again later.
func (p *Pusher) watch(ctx context.Context) error {
	said := false // that the cache cannot be asked
	for pause := watchInterval; ; {
		select {
		case <-time.After(pause):
		case <-p.ended:
			return nil
		}
		begun := time.Now()
		wanted, err := p.planner.wanted(nil)
		if err != nil {
			return err
		}
		if err := p.add(ctx, wanted); err != nil {
			if !said {
				p.say("cannot push for now: %v", err)
			}
			said, pause = true, awayInterval
			continue
		}
		said = false
		pause = max(watchInterval, watchShare*time.Since(begun))
	}
}

// add puts into the queue what the cache lacks of some paths. After an error, they are
// planned once more.
func (p *Pusher) add(ctx context.Context, wanted map[string]cachix.Path) error {
	if len(wanted) == 0 {
		return nil
	}
	missing, err := p.client.Missing(ctx, slices.Collect(maps.Keys(wanted)))
	if err != nil {
		for _, path := range wanted {
			p.planner.planAgain(path)
		}
		return err
	}
	if len(missing) < len(wanted) {
		p.sender.learn(listWorks)
	}
	p.tally.count(func(c *counts) {
		c.there += len(wanted) - len(missing)
		c.expected += len(missing)
	})
	var paths []cachix.Path
	for _, hash := range missing {
		paths = append(paths, wanted[hash])
	}
	p.queue.add(paths)
	return nil
}

// A Command is what is known of the command that was run: store paths, in any order, some of which
// need not be there.
type Command struct {
	About   []string // which Nix's garbage collector had to leave for it
	Printed []string // each alone in a line
}

// Finish is called when the build has ended. It pushes what is not pushed yet, with the
// closure of what the command was about, and says in the log what came of it all. It returns what
// could not be pushed, in words for the build's user, or nothing.
func (p *Pusher) Finish(ctx context.Context, command Command) (unpushed string) {
	begun := time.Now()
	p.client.Renew()
	close(p.ended)
	err := <-p.watched
	p.tryAgain()
	if err == nil {
		err = p.addLast(ctx, command)
	}
	p.queue.drain()
	return p.tally.sum(p.queue.takeFailed(), err, time.Since(begun))
}

func (p *Pusher) addLast(ctx context.Context, command Command) error {
	results, err := p.planner.results(command)
	if err != nil {
		return err
	}
	wanted, err := p.planner.wanted(results)
	if err != nil {
		return err
	}
	return p.add(ctx, wanted)
}

// tryAgain has what has failed planned again: it may have been long ago.
func (p *Pusher) tryAgain() {
	failed := p.queue.takeFailed()
	for _, e := range failed {
		p.planner.planAgain(e.path)
	}
	p.tally.tryAgain(len(failed))
}
