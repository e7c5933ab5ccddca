package nixstore

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/nix-community/go-nix/pkg/wire"
)

// Outputs are the valid outputs of some derivations and of all derivations that these need.
type Outputs struct {
	Paths []string // store paths
	// Floating are those of Paths whose names depend on the result of the build: outputs of
	// content-addressed derivations, and of derivations that need such outputs. Their .drv files do not
	// have these paths; only the store knows them.
	Floating []string
}

// maxQuery is how many paths a request to the store has.
const maxQuery = 4096

// Outputs returns the valid outputs of some derivations. It reads the .drv files in the store.
func (s *Store) Outputs(derivations []string) (Outputs, error) {
	var all Outputs
	var named []string
	seen := make(map[string]bool)
	for left := slices.Clone(derivations); len(left) > 0; {
		drv := left[len(left)-1]
		left = left[:len(left)-1]
		if seen[drv] {
			continue
		}
		seen[drv] = true
		d, err := s.files.Derivation(drv)
		if errors.Is(err, fs.ErrNotExist) { // a command can use the path of a derivation without writing the file
			continue
		}
		if err != nil { // it has a format that only this store's Nix supports
			d, err = s.derivation(drv)
		}
		if err != nil {
			return Outputs{}, err
		}
		left = append(left, d.Inputs...)
		if slices.Contains(d.Outputs, "") {
			floating, err := s.outputMap(drv)
			if err != nil {
				return Outputs{}, fmt.Errorf("ask for the outputs of %s: %w", drv, err)
			}
			all.Floating = append(all.Floating, floating...)
		}
		for _, output := range d.Outputs {
			if output != "" {
				named = append(named, output)
			}
		}
	}
	for some := range slices.Chunk(named, maxQuery) {
		valid, err := s.valid(some)
		if err != nil {
			return Outputs{}, fmt.Errorf("ask which paths are valid: %w", err)
		}
		all.Paths = append(all.Paths, valid...)
	}
	all.Paths = append(all.Paths, all.Floating...)
	return all, nil
}

// derivation returns a derivation as the daemon knows it, without reading its file. All its outputs are
// floating.
func (s *Store) derivation(drv string) (Derivation, error) {
	info, err := s.Info(drv)
	if errors.Is(err, ErrNoPath) {
		return Derivation{}, nil
	}
	inputs := slices.DeleteFunc(info.References, func(path string) bool { return !IsDerivation(path) })
	return Derivation{Outputs: []string{""}, Inputs: inputs}, err
}

// valid returns the valid paths among some.
func (s *Store) valid(paths []string) ([]string, error) {
	if err := s.begin(opQueryValidPaths, uint64(len(paths))); err != nil {
		return nil, err
	}
	for _, path := range paths {
		if err := wire.WriteString(s.w, path); err != nil {
			return nil, err
		}
	}
	if err := s.send(0); err != nil { // without substituting missing paths
		return nil, err
	}
	if err := s.awaitAnswer(); err != nil {
		return nil, err
	}
	return s.strings()
}

// outputMap returns the known outputs of a derivation.
func (s *Store) outputMap(drv string) ([]string, error) {
	if _, err := s.info(drv); errors.Is(err, ErrNoPath) { // the file exists, but Nix has rejected it
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := s.ask(opQueryDerivationOutputMap, drv); err != nil {
		return nil, err
	}
	d := decoder{store: s}
	var paths []string
	for n := d.number(); n > 0 && d.err == nil; n-- {
		d.string() // its name
		if path := d.string(); path != "" {
			paths = append(paths, path)
		}
	}
	return paths, d.err
}
