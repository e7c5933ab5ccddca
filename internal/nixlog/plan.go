package nixlog

import (
	"slices"
	"strings"

	"iglu.sh/builder/internal/lazyregexp"
	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/schemas"
)

const (
	// maxPlanned is how many derivations of a job are listed, and maxNeeds how many needs they may have in
	// total. A derivation uses about 100 bytes of a message, and at most 270; a need uses at most 5. In total
	// this is less than 2.5 MiB, and usually less than 1 MiB.
	maxPlanned = 8192
	maxNeeds   = 4 * maxPlanned
	// maxPiece is how many derivations an event lists.
	maxPiece = 500
)

// A list is a list of store paths that Nix prints before it builds: either the derivations to build, each
// after the ones that it needs, or the paths to download.
type list struct {
	kind  int // build or copyPath; 0: no list
	paths []string
}

func (l *list) takes(path string) bool {
	if l.kind == build {
		return nixstore.IsDerivation(path)
	}
	return nixstore.IsPath(path)
}

// The headings of lists, of Nix 2.4 and later.
var (
	toBuild = lazyregexp.New(`^(this derivation|these \d+ derivations) will be built:$`)
	toFetch = lazyregexp.New(`^(this path|these \d+ paths) will be fetched\b.*:$`)
)

// listLine processes a line for people, which may belong to a list. If the line ends a list, it returns that.
func (p *process) listLine(line string) (ended list) {
	p.log.noteRestricted(line)
	path, indented := strings.CutPrefix(line, "  ")
	if p.list.kind != 0 && indented && p.list.takes(path) {
		if len(p.list.paths) < maxPlanned {
			p.list.paths = append(p.list.paths, path)
		}
		return list{}
	}
	ended = p.endList()
	switch {
	case toBuild().MatchString(line):
		p.list.kind = build
	case toFetch().MatchString(line):
		p.list.kind = copyPath
	}
	return ended
}

// endList processes and returns the list that was printed, if there is one.
func (p *process) endList() (ended list) {
	ended, p.list = p.list, list{}
	if ended.kind == build {
		p.log.plan(ended.paths)
	}
	return ended
}

// plan reports the derivations that were not listed before, and which of the listed ones they need.
func (l *Log) plan(derivations []string) {
	var planned []schemas.PlannedDerivation
	first := len(l.numbers)
	for _, path := range derivations {
		if _, listed := l.numbers[path]; listed || len(l.numbers) == maxPlanned {
			continue
		}
		planned = append(planned, schemas.PlannedDerivation{Derivation: path, Needs: l.needsOf(path)})
		l.numbers[path] = len(l.numbers)
	}
	for piece := range slices.Chunk(planned, maxPiece) {
		l.tell(schemas.PlanEvent{First: first, Derivations: piece})
		first += len(piece)
	}
}

// needsOf returns the numbers of the listed derivations that a derivation needs. If its file cannot be read,
// because it is in another store, it returns none.
func (l *Log) needsOf(path string) (needs []int) {
	d, err := l.store.Derivation(path)
	if err != nil {
		return nil
	}
	for _, input := range d.Inputs {
		if number, listed := l.numbers[input]; listed && l.needs < maxNeeds {
			needs = append(needs, number)
			l.needs++
		}
	}
	slices.Sort(needs)
	return needs
}
