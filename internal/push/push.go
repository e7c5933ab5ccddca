// Package push uploads the results of a build from a Nix store to a binary cache. It starts while the
// build is running, and uploads the rest when the build has ended.
//
// It uploads the closure of the paths that were built here and of the paths that the build used, also if
// these were built earlier. It omits paths that a trusted upstream cache has signed, and paths that the
// cache has. A path is uploaded after its references. If the cache can be read, the path is then read
// back, and counts as pushed only if that succeeds.
//
// To find out which paths the cache has, it sends a list of hashes. If the answers prove to be wrong, it
// asks for each path before the upload.
//
// One goroutine at a time asks the store and selects paths (planner): first the one that watches the
// store during the build, and then the caller of Finish. A fixed number of others upload (sender).
package push

import (
	"context"
	"maps"
	"net"
	"slices"
	"time"

	"iglu.sh/builder/internal/cachix"
)

// Options are the parameters of a push.
type Options struct {
	Target     string // the cache's address, which ends in its name
	Token      string // its API key
	SigningKey string // signs what is pushed; empty: the cache must sign
	// Upstream has public keys in the format NAME:BASE64. Paths that one of them has signed are
	// not pushed. The cache's own keys are ignored.
	Upstream []string
	Uploads  int // how many paths are uploaded at the same time; 0: the default of cachix.Options
	PartSize int // the size of the parts of an upload, in bytes; 0: the default of cachix.Options
	// Progress, unless nil, is called when one of its values changes: the number of pushed paths, the
	// number of paths to push in total, and the number of pushed bytes.
	Progress func(done, expected int, bytes int64)

	dial func(ctx context.Context, network, address string) (net.Conn, error) // in tests
}

// extraParts is how many parts may be in memory in addition to one for each upload, so that the parts of
// a single large path can be sent at the same time.
const extraParts = 4

// otherMemory is how much memory a push uses in addition to the data of uploads, in bytes: the metadata
// of some 100,000 paths, connections, and garbage that is not collected yet.
const otherMemory = 64 << 20

// Memory returns the most memory that a push uses, in bytes. It does not depend on the amount of data.
func (o Options) Memory() int64 { return o.client().Memory() + otherMemory }

// client returns the options of the cache's client.
func (o Options) client() cachix.Options {
	options := cachix.Options{Uploads: o.Uploads, PartSize: o.PartSize, Dial: o.dial}
	if o.Uploads > 0 {
		options.Parts = o.Uploads + extraParts
	}
	return options
}

// A Pusher pushes the results of a build to a cache. Its planner finds the paths, its queue orders them,
// and its sender uploads them.
type Pusher struct {
	client   *cachix.Client
	upstream trust
	// substituter is how Nix can read the cache, if the cache is private.
	substituter Substituter
	// source is where users get what was pushed.
	source Substituter
	say    func(format string, args ...any)
	sender *sender
	tally  *tally

	planner *planner
	queue   *queue
	there   map[string]cachix.Path // what the cache had during the build, by hash
	ended   chan struct{}          // closed when the build has ended
	watched chan error             // receives the error of watch, or nil, when that returns
}

// Watch starts to push the paths that are built in a store from now on, until ctx ends. Finish must be
// called after it.
func (p *Pusher) Watch(ctx context.Context, store Store) error {
	planner, err := newPlanner(store, p.upstream, p.say, p.tally)
	if err != nil {
		return err
	}
	p.planner = planner
	p.queue = newQueue(p.client.Uploads(), func(path cachix.Path) error { return p.sender.send(ctx, path) })
	p.there = make(map[string]cachix.Path)
	p.ended, p.watched = make(chan struct{}), make(chan error, 1)
	go func() { p.watched <- p.watch(ctx) }()
	return nil
}

const (
	// watchInterval is the shortest interval at which the store is asked for new paths. In a store with
	// many paths, the pause is watchShare times as long as the answer takes.
	watchInterval = time.Second
	watchShare    = 20
	// awayInterval is the pause after the cache could not be asked.
	awayInterval = 30 * time.Second
)

// watch adds new paths until the build has ended. If the cache cannot be asked, it is asked again later.
func (p *Pusher) watch(ctx context.Context) error {
	said := false // the log has that the cache cannot be asked
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

// add adds those paths to the queue that the cache lacks. After an error, all are planned again.
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
		delete(wanted, hash)
	}
	maps.Copy(p.there, wanted)
	p.queue.add(paths)
	return nil
}

// A Command has the store paths that belong to the command that was run, in any order. Some may not exist.
type Command struct {
	Used    []string // paths that were temporary roots of the command's processes
	Printed []string // paths that the command printed, each on a line of its own
}

// Finish is called when the build has ended. It pushes the rest, including the closure of the paths that
// the command used, and writes a summary to the log. It returns a text for the build's user that says what
// could not be pushed, or "".
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
	// The cache is asked once more for what it had: that can be hours ago, and it may have removed some of it.
	p.tally.count(func(c *counts) { c.there -= len(p.there) })
	maps.Copy(wanted, p.there)
	return p.add(ctx, wanted)
}

// tryAgain plans failed paths again: the failure may be long past.
func (p *Pusher) tryAgain() {
	failed := p.queue.takeFailed()
	for _, e := range failed {
		p.planner.planAgain(e.path)
	}
	p.tally.tryAgain(len(failed))
}
