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
// One goroutine at a time asks the store and plans: the one that watches the store
// while the build goes on, then the caller of Finish. A fixed number of others send.
package push

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"iglu.sh/builder/internal/cachix"
	"iglu.sh/builder/internal/nixstore"
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

// A Pusher pushes to one cache.
type Pusher struct {
	client   *cachix.Client
	key      *cachix.SigningKey // nil: the cache signs
	keys     []string           // public ones, of which one has signed what is in the cache; none: whoever
	upstream trust
	readable bool // what was pushed can be read back
	// substituter is the cache as Nix can read it, if it is private.
	substituter Substituter
	say         func(format string, args ...any)
	progress    func(done, expected int, bytes int64)
	dump        func(w io.Writer, path string) error // writes a path's archive

	store   Store
	queue   *queue
	known   map[string]bool // paths of the store that have been looked at
	planned map[string]bool // paths whose closure is in the queue, or need not be
	again   []string        // paths to plan once more
	ended   chan struct{}   // closed when the build has ended
	watched chan error      // gets the watcher's error, or nil, when it ends

	mu       sync.Mutex
	counts   counts
	failures int   // paths that have failed since the last that has not
	gaveUp   error // why nothing more is tried for now, or nil
	list     list  // what the cache's answer to a list of hashes is worth
}

// A Store is a Nix store: *nixstore.Store.
type Store interface {
	Paths() ([]string, error)
	Info(path string) (nixstore.Info, error)
	Outputs(derivations []string) (nixstore.Outputs, error)
}

// A list is what a cache's answer to a list of hashes is worth.
type list int

const (
	listUntried list = iota // it lacks all that it was asked for, which may be so
	listWorks
	listUseless // it lacks what it has
)

// counts are what came of the paths.
type counts struct {
	pushed, there, upstream int
	expected                int // to be pushed, what is pushed included
	narBytes, fileBytes     int64
}

// Watch begins to push what is built from now on in a store, until ctx ends. Finish
// has to be called after it.
func (p *Pusher) Watch(ctx context.Context, store Store) error {
	paths, err := store.Paths()
	if err != nil {
		return err
	}
	p.store, p.known, p.planned = store, make(map[string]bool, len(paths)), make(map[string]bool)
	for _, path := range paths {
		p.known[path] = true
	}
	p.queue = newQueue(p.client.Uploads(), func(path cachix.Path) error { return p.send(ctx, path) })
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
		wanted, err := p.wanted(nil)
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

// wanted returns, by their hashes, what belongs into the cache of the closures of what was
// built since it was last called, of results, and of what is to be planned once more.
func (p *Pusher) wanted(results []string) (map[string]cachix.Path, error) {
	built, err := p.built()
	if err != nil {
		return nil, err
	}
	roots := slices.Concat(p.again, built, results)
	p.again = nil
	return p.closure(roots)
}

// results returns what belongs into the cache of what a command was about: the outputs of
// derivations, of all that these need to be built, and other paths, but for those that were only
// added to the store, as sources are, unless the command printed them.
func (p *Pusher) results(c Command) ([]string, error) {
	var results, derivations []string
	for _, path := range c.Printed {
		if nixstore.IsDerivation(path) {
			derivations = append(derivations, path)
		} else {
			results = append(results, path)
		}
	}
	for _, path := range c.About {
		if nixstore.IsDerivation(path) {
			derivations = append(derivations, path)
			continue
		}
		info, err := p.store.Info(path)
		switch {
		case errors.Is(err, nixstore.ErrNoPath): // it was not built
		case err != nil:
			return nil, err
		case info.BuiltHere || info.ContentAddress == "":
			results = append(results, path)
		}
	}
	outputs, err := p.store.Outputs(derivations)
	if n := len(outputs.Floating); n > 0 {
		p.say("warning: %s of content-addressed derivations: the cache cannot tell Nix which derivation they are of, so Nix builds them where it does not know", paths(n))
	}
	return append(results, outputs.Paths...), err
}

// built returns what was built since it was last called.
func (p *Pusher) built() ([]string, error) {
	paths, err := p.store.Paths()
	if err != nil {
		return nil, err
	}
	var built []string
	for _, path := range paths {
		if p.known[path] {
			continue
		}
		p.known[path] = true
		info, err := p.store.Info(path)
		switch {
		case errors.Is(err, nixstore.ErrNoPath): // gone again
		case err != nil:
			return nil, err
		case info.BuiltHere:
			built = append(built, path)
		}
	}
	return built, nil
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
			p.planAgain(path)
		}
		return err
	}
	if len(missing) < len(wanted) {
		p.learn(listWorks)
	}
	p.count(func(c *counts) {
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

// closure returns, by their hashes, what of the closures of some paths belongs into the
// cache and has not been planned yet.
func (p *Pusher) closure(left []string) (map[string]cachix.Path, error) {
	wanted := make(map[string]cachix.Path)
	for len(left) > 0 {
		path := left[len(left)-1]
		left = left[:len(left)-1]
		if p.planned[path] {
			continue
		}
		p.planned[path] = true
		info, err := p.store.Info(path)
		if errors.Is(err, nixstore.ErrNoPath) { // the command printed what looks like a path
			continue
		}
		if err != nil {
			return nil, err
		}
		left = append(left, info.References...)
		described := describe(info)
		if p.upstream.signed(described, info.Signatures) {
			p.count(func(c *counts) { c.upstream++ })
		} else {
			wanted[described.Hash()] = described
		}
	}
	return wanted, nil
}

func (p *Pusher) planAgain(path cachix.Path) {
	delete(p.planned, path.StorePath)
	p.again = append(p.again, path.StorePath)
}

func describe(info nixstore.Info) cachix.Path {
	return cachix.Path{StorePath: info.Path, NarHash: info.NarHash, NarSize: info.NarSize,
		References: info.References, Deriver: info.Deriver}
}

// largePath is the size in bytes of an archive from which on the log says that a path
// is about to go up, and not only that it has.
const largePath = 64 << 20

// send pushes one path and reads it back, unless the cache has it.
func (p *Pusher) send(ctx context.Context, path cachix.Path) error {
	if err := p.hasGivenUp(); err != nil {
		return err
	}
	there, err := p.isThere(ctx, path)
	if err == nil && !there {
		err = p.push(ctx, path)
	}
	if err != nil {
		p.failed(ctx, path, err)
	}
	return err
}

// isThere looks for a path, unless the cache's answer to the list of hashes can be trusted.
func (p *Pusher) isThere(ctx context.Context, path cachix.Path) (bool, error) {
	if !p.readable || p.listIs() == listWorks {
		return false, nil
	}
	there, err := p.client.Has(ctx, path, p.keys...)
	if there {
		p.learn(listUseless)
		p.count(func(c *counts) {
			c.there++
			c.expected--
			p.failures = 0
		})
	}
	return there, err
}

// push pushes one path and reads it back.
func (p *Pusher) push(ctx context.Context, path cachix.Path) error {
	if path.NarSize >= largePath {
		p.say("pushing %s (%s)", path.Name(), size(path.NarSize))
	}
	pushed, err := p.client.Push(ctx, path, func(w io.Writer) error { return p.dump(w, path.StorePath) }, p.key)
	if err != nil {
		return err
	}
	if p.readable {
		if err := p.client.Verify(ctx, path, pushed, p.key); err != nil {
			return err
		}
		p.tryList(ctx, path)
	}
	p.say("pushed %s (%s, %s compressed, %s)", path.Name(), size(path.NarSize), size(pushed.FileSize), rate(path.NarSize, pushed.Took))
	p.count(func(c *counts) {
		c.pushed++
		c.narBytes += path.NarSize
		c.fileBytes += pushed.FileSize
		p.failures = 0
	})
	return nil
}

// tryList finds out what the cache's answer to the list of hashes is worth: whether it knows
// of a path that it has shown.
func (p *Pusher) tryList(ctx context.Context, path cachix.Path) {
	if p.listIs() != listUntried {
		return
	}
	switch missing, err := p.client.Missing(ctx, []string{path.Hash()}); {
	case err != nil: // another path tells
	case len(missing) == 0:
		p.learn(listWorks)
	default:
		p.learn(listUseless)
	}
}

func (p *Pusher) listIs() list {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.list
}

// learn keeps what is found out first of the list.
func (p *Pusher) learn(l list) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.list == listUntried {
		p.list = l
	}
}

// maxFailures is how many paths in a row may fail before the cache itself is taken to be
// what fails. Each has been tried several times by then.
const maxFailures = 3

// failed says that a path could not be pushed, and gives up where the next would not fare
// better.
func (p *Pusher) failed(ctx context.Context, path cachix.Path, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gaveUp != nil || ctx.Err() != nil {
		return
	}
	p.say("could not push %s: %v", path.Name(), err)
	p.failures++
	if errors.Is(err, cachix.KeyRefused) || cachix.StayedAway(err) || p.failures >= maxFailures {
		p.gaveUp = errGaveUp
		p.say("the cache fails again and again: no more is pushed for now")
	}
}

// errGaveUp is why a path is not tried after others have failed.
var errGaveUp = errors.New("not tried any more")

func (p *Pusher) hasGivenUp() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gaveUp
}

func (p *Pusher) count(change func(*counts)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.counts
	change(&p.counts)
	if c := p.counts; p.progress != nil && (c.expected != before.expected || c.pushed != before.pushed) {
		p.progress(c.pushed, c.expected, c.fileBytes)
	}
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
	return p.sum(p.queue.takeFailed(), err, time.Since(begun))
}

func (p *Pusher) addLast(ctx context.Context, command Command) error {
	results, err := p.results(command)
	if err != nil {
		return err
	}
	wanted, err := p.wanted(results)
	if err != nil {
		return err
	}
	return p.add(ctx, wanted)
}

// tryAgain has what has failed planned again: it may have been long ago.
func (p *Pusher) tryAgain() {
	failed := p.queue.takeFailed()
	for _, e := range failed {
		p.planAgain(e.path)
	}
	p.count(func(c *counts) { c.expected -= len(failed) }) // which is counted again
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gaveUp, p.failures = nil, 0
}
