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

// A planner finds out which paths of a store are to be pushed. It is not safe for concurrent use.
type planner struct {
	store    Store
	upstream trust
	say      func(format string, args ...any)
	tally    *tally

	known   map[string]bool // paths of the store that have been examined
	planned map[string]bool // paths whose closure is in the queue, or is not to be pushed
	again   []string        // paths to plan again
}

// newPlanner returns a planner for the paths that are built in a store from now on.
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

// wanted returns the paths to push, by their hashes. They are from the closures of results, of the paths
// that were built since the last call, and of those to plan again.
func (p *planner) wanted(results []string) (map[string]cachix.Path, error) {
	built, err := p.built()
	if err != nil {
		return nil, err
	}
	roots := slices.Concat(p.again, built, results)
	p.again = nil
	return p.closure(roots)
}

// results returns the paths to push for a command: the outputs of the derivations that it used, and of all
// derivations that these need; and the other paths that it used. Paths that were only added to the store,
// such as sources, are included only if the command printed them.
func (p *planner) results(c Command) ([]string, error) {
	var results, derivations []string
	for _, path := range c.Printed {
		if nixstore.IsDerivation(path) {
			derivations = append(derivations, path)
		} else {
			results = append(results, path)
		}
	}
	for _, path := range c.Used {
		if nixstore.IsDerivation(path) {
			derivations = append(derivations, path)
			continue
		}
		info, err := p.store.Info(path)
		switch {
		case errors.Is(err, nixstore.ErrNoPath): // it does not exist
		case err != nil:
			return nil, err
		case info.BuiltHere || info.ContentAddress == "":
			results = append(results, path)
		}
	}
	outputs, err := p.store.Outputs(derivations)
	if n := len(outputs.Floating); n > 0 {
		p.say("warning: %s of content-addressed derivations: the cache cannot tell Nix which derivation they belong to, so other machines build them again", paths(n))
	}
	return append(results, outputs.Paths...), err
}

// built returns the paths that were built since the last call.
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
		case errors.Is(err, nixstore.ErrNoPath): // it has been removed
		case err != nil:
			return nil, err
		case info.BuiltHere:
			built = append(built, path)
		}
	}
	return built, nil
}

// closure returns the paths to push from the closures of some paths, by their hashes. It omits paths that
// are planned already.
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
		if errors.Is(err, nixstore.ErrNoPath) { // the command printed a path that does not exist
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

// planAgain makes the next call of wanted plan a path again.
func (p *planner) planAgain(path cachix.Path) {
	delete(p.planned, path.StorePath)
	p.again = append(p.again, path.StorePath)
}

func describe(info nixstore.Info) cachix.Path {
	return cachix.Path{StorePath: info.Path, NarHash: info.NarHash, NarSize: info.NarSize,
		References: info.References, Deriver: info.Deriver}
}
