package push

import (
	"errors"
	"slices"

	"iglu.sh/builder/internal/cachix"
	"iglu.sh/builder/internal/nixstore"
)

// A Store is a Nix store: *nixstore.Store.
type Store interface {
	Paths() ([]string, error)
	Info(path string) (nixstore.Info, error)
	Outputs(derivations []string) (nixstore.Outputs, error)
}

// A planner finds out which paths of a store belong into the cache. It is for one goroutine at
// a time.
type planner struct {
	store    Store
	upstream trust
	say      func(format string, args ...any)
	tally    *tally

	known   map[string]bool // paths of the store that have been looked at
	planned map[string]bool // paths whose closure is in the queue, or need not be
	again   []string        // paths to plan once more
}

// newPlanner returns a planner for what is built in a store from now on.
func newPlanner(store Store, upstream trust, say func(format string, args ...any), tally *tally) (*planner, error) {
	paths, err := store.Paths()
	if err != nil {
		return nil, err
	}
	p := &planner{store: store, upstream: upstream, say: say, tally: tally,
		known: make(map[string]bool, len(paths)), planned: make(map[string]bool)}
	for _, path := range paths {
		p.known[path] = true
	}
	return p, nil
}

// wanted returns, by their hashes, what belongs into the cache of the closures of what was
// built since it was last called, of results, and of what is to be planned once more.
func (p *planner) wanted(results []string) (map[string]cachix.Path, error) {
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
func (p *planner) results(c Command) ([]string, error) {
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
func (p *planner) built() ([]string, error) {
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

// closure returns, by their hashes, what of the closures of some paths belongs into the
// cache and has not been planned yet.
func (p *planner) closure(left []string) (map[string]cachix.Path, error) {
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
			p.tally.count(func(c *counts) { c.upstream++ })
		} else {
			wanted[described.Hash()] = described
		}
	}
	return wanted, nil
}

// planAgain has a path planned at the next call of wanted.
func (p *planner) planAgain(path cachix.Path) {
	delete(p.planned, path.StorePath)
	p.again = append(p.again, path.StorePath)
}

func describe(info nixstore.Info) cachix.Path {
	return cachix.Path{StorePath: info.Path, NarHash: info.NarHash, NarSize: info.NarSize,
		References: info.References, Deriver: info.Deriver}
}
