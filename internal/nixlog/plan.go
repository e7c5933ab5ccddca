package nixlog

import (
	"slices"
	"strings"

	"iglu.sh/builder/internal/lazyregexp"
	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/schemas"
)

const (
	// maxPlanned is how many derivations of a job are listed at most, and maxNeeds how many
	// needs of them all together. Each of the former is some 100 bytes in a message, 270 at
	// most, each of the latter up to 5: together less than 2.5 MiB, and mostly less than one.
	maxPlanned = 8192
	maxNeeds   = 4 * maxPlanned
	// maxPiece is how many are listed in one event.
	maxPiece = 500
)

// A list is one of store paths that Nix prints before it begins: what is to be built, each
// after what it needs, and what is to be downloaded.
type list struct {
	kind  int // build or copyPath; 0 while none is printed
	paths []string
}

func (l *list) takes(path string) bool {
	if l.kind == build {
		return nixstore.IsDerivation(path)
	}
	return nixstore.IsPath(path)
}

// The headings of lists, in the words of Nix since 2.4.
var (
	toBuild = lazyregexp.New(`^(this derivation|these \d+ derivations) will be built:$`)
	toFetch = lazyregexp.New(`^(this path|these \d+ paths) will be fetched\b.*:$`)
)

// listLine takes a line for people, which may be one of a list, and returns the list that it
// ends.
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

// endList takes the list that was printed, if one was, and returns it.
func (p *process) endList() (ended list) {
	ended, p.list = p.list, list{}
	if ended.kind == build {
		p.log.plan(ended.paths)
	}
	return ended
}

// plan tells of those derivations that were not listed before, and which of the listed ones
// they need.
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

// needsOf returns the numbers of the listed derivations that one needs, or none if its file
// cannot be read: then it is in another store.
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
