package nixlog

import (
	"bytes"
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/schemas"
)

const (
	// maxLine is how many bytes of a line for people are looked at. What is of interest
	// stands in the first ones.
	maxLine = 1 << 10
	// lookInterval is how often the store is looked at for what has ended, at most: but where
	// little is going on, whenever Nix says that something begins or fails.
	lookInterval = time.Second
	little       = 32 // derivations and paths
)

// Lines read what one Nix process prints for people, on its standard error. It tells which
// derivations begin and which fail. That one is built, or a path fetched, is seen in the store
// while more is printed; what is not seen by the end of the process has failed with it. What
// a builder prints stands among the lines of Nix, and if it looks like one of them it is taken
// for one; but only of a derivation that the store has can it begin. A Lines is for one
// goroutine.
type Lines struct {
	process *process
	line    []byte // the beginning of the line that is not ended
	looked  time.Time
	last    uint64           // id of an activity
	going   map[string]*work // by the path of the derivation or of what is fetched

	builds, copies counter
}

// work is a derivation that is built, or a path that is fetched.
type work struct {
	id      uint64
	outputs []string // what is in the store when it is done
	counter *counter
}

// A counter is an activity of the process that counts others.
type counter struct {
	activity *activity
	counts   schemas.Counts
}

// Lines returns what reads the lines of one process. Its End must be called.
func (l *Log) Lines() *Lines {
	n := &Lines{process: l.newProcess(), going: make(map[string]*work)}
	l.mu.Lock()
	defer l.mu.Unlock()
	n.builds.activity = n.process.start(math.MaxUint64, builds, "")
	n.copies.activity = n.process.start(math.MaxUint64-1, copyPaths, "")
	return n
}

// Write takes what is printed. It never fails.
func (n *Lines) Write(b []byte) (int, error) {
	n.process.log.mu.Lock()
	defer n.process.log.mu.Unlock()
	for rest := b; len(rest) > 0; {
		part, after, ended := bytes.Cut(rest, []byte{'\n'})
		n.line = append(n.line, part[:min(len(part), maxLine-len(n.line))]...)
		if ended {
			n.take(string(n.line))
			n.line = n.line[:0]
		}
		rest = after
	}
	n.lookIfDue()
	return len(b), nil
}

// End takes the end of the process.
func (n *Lines) End(succeeded bool) {
	n.process.log.mu.Lock()
	defer n.process.log.mu.Unlock()
	n.look()
	n.process.ending = true
	for _, path := range n.inOrder() {
		n.end(path, succeeded)
	}
	n.process.end()
}

func (n *Lines) take(line string) {
	switch ended := n.process.listLine(line); ended.kind {
	case build:
		n.builds.add(n.process, schemas.Counts{Expected: int64(len(ended.paths))})
	case copyPath:
		n.copies.add(n.process, schemas.Counts{Expected: int64(len(ended.paths))})
	}
	if path := quoted(line, "building '"); nixstore.IsDerivation(path) && n.going[path] == nil {
		n.lookSoon() // before this one, others may have ended
		if d, err := n.process.log.store.Derivation(path); err == nil {
			n.begin(path, build, d.Outputs, &n.builds)
		}
	} else if path := quoted(line, "copying path '"); nixstore.IsPath(path) {
		n.begin(path, copyPath, []string{path}, &n.copies)
	} else if text, ok := strings.CutPrefix(strings.TrimLeft(line, " "), "error: "); ok {
		n.lookSoon()
		if line[0] == 'e' { // else it is about the errors above it
			for _, path := range n.inOrder() {
				if strings.Contains(line, "'"+path+"'") {
					n.end(path, false)
				}
			}
		}
		n.process.log.hasFailed(text, "")
	}
}

// quoted returns what stands in quotes behind the beginning of a line, or "".
func quoted(line, begin string) string {
	rest, ok := strings.CutPrefix(line, begin)
	text, _, closed := strings.Cut(rest, "'")
	if !ok || !closed {
		return ""
	}
	return text
}

func (n *Lines) begin(path string, kind int, outputs []string, c *counter) {
	if n.going[path] != nil {
		return
	}
	n.last++
	if n.process.start(n.last, kind, path) == nil {
		return // there are too many
	}
	n.going[path] = &work{n.last, outputs, c}
	c.add(n.process, schemas.Counts{Running: 1})
}

// lookSoon looks at the store now or, where much is going on, when it is time.
func (n *Lines) lookSoon() {
	if len(n.going) <= little {
		n.look()
	}
}

func (n *Lines) lookIfDue() {
	if time.Since(n.looked) >= lookInterval {
		n.look()
	}
}

// look ends what is done.
func (n *Lines) look() {
	n.looked = time.Now()
	for _, path := range n.inOrder() {
		if n.has(n.going[path].outputs) {
			n.end(path, true)
		}
	}
}

// inOrder returns what is going on, first what began first.
func (n *Lines) inOrder() []string {
	return slices.SortedFunc(maps.Keys(n.going), func(a, b string) int { return cmp.Compare(n.going[a].id, n.going[b].id) })
}

func (n *Lines) has(outputs []string) bool {
	for _, output := range outputs {
		if output == "" || !n.process.log.store.Has(output) {
			return false
		}
	}
	return true
}

// end takes the end of what was begun.
func (n *Lines) end(path string, succeeded bool) {
	w := n.going[path]
	delete(n.going, path)
	counts := schemas.Counts{Running: -1}
	if a := n.process.activities[w.id]; a.kind == build {
		n.tellLog(a)
	}
	if succeeded {
		counts.Done = 1
	} else {
		counts.Failed = 1
	}
	w.counter.add(n.process, counts)
	n.process.stop(w.id)
}

// tellLog tells the log that Nix has kept of a derivation whose build has ended, as if it came only now:
// that there is one, nix-build does not tell.
func (n *Lines) tellLog(a *activity) {
	log := n.process.log.newTail()
	err := n.process.log.store.Log(a.derivation, func(part string, goesOn bool) {
		n.process.log.tell(schemas.LineEvent{Derivation: a.derivation, Text: log.add(part, goesOn)})
	})
	if err == nil {
		a.log = log
	}
}

// add counts.
func (c *counter) add(p *process, more schemas.Counts) {
	c.counts = sum(c.counts, more)
	if c.activity != nil { // else there are too many
		p.progress(c.activity, c.counts)
	}
}
