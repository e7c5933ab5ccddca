package nixlog

import (
	"bytes"
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"iglu.sh/builder/internal/lazyregexp"
	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/schemas"
)

const (
	// maxLine is how many bytes of a line for people are read: the beginning is enough.
	maxLine = 1 << 10
	// maxFailure is the length in bytes from which on an error is not continued.
	maxFailure = 4 * maxLine
	// lookInterval is the interval at which the store is searched for paths that are finished. While at
	// most few derivations and paths are in progress, it is also searched whenever Nix prints that one
	// begins or fails.
	lookInterval = time.Second
	few          = 32
)

// Lines reads what a Nix process prints for people, on its standard error. The lines say which derivations
// begin and which fail. To find out that a derivation is built or a path is fetched, it looks into the
// store. What is not finished when the process fails has failed, too.
//
// The output of builders is mixed with Nix's lines. A line of a builder that looks like one of Nix's is
// read as such, but it can start only a derivation that is in the store.
//
// A Lines is not safe for concurrent use.
type Lines struct {
	process *process
	line    []byte           // the beginning of a line without its end
	looked  time.Time        // when the store was last searched
	last    uint64           // id of the last activity
	failure string           // the error that is being printed, with its details; empty: none
	going   map[string]*work // what is in progress, by the path of the derivation or of the path to fetch

	builds, copies counter
}

// A work is a derivation that is being built, or a path that is being fetched.
type work struct {
	id      uint64
	outputs []string // the paths that are in the store when it is finished
	counter *counter
}

// A counter is an activity that counts others.
type counter struct {
	activity *activity
	counts   schemas.Counts
}

// Lines returns a Lines for a process. Its End must be called.
func (l *Log) Lines() *Lines {
	n := &Lines{process: l.newProcess(), going: make(map[string]*work)}
	l.mu.Lock()
	defer l.mu.Unlock()
	n.builds.activity = n.process.start(math.MaxUint64, builds, "")
	n.copies.activity = n.process.start(math.MaxUint64-1, copyPaths, "")
	return n
}

// Write processes what the process prints. It never returns an error.
func (n *Lines) Write(b []byte) (int, error) {
	n.process.log.mu.Lock()
	defer n.process.log.mu.Unlock()
	for rest := b; len(rest) > 0; {
		part, after, ended := bytes.Cut(rest, []byte{'\n'})
		n.line = append(n.line, part[:min(len(part), maxLine-len(n.line))]...)
		if ended {
			n.processLine(string(n.line))
			n.line = n.line[:0]
		}
		rest = after
	}
	n.lookIfDue()
	return len(b), nil
}

// End processes the end of the process.
func (n *Lines) End(succeeded bool) {
	n.process.log.mu.Lock()
	defer n.process.log.mu.Unlock()
	n.noteFailure()
	n.look()
	n.process.ending = true
	for _, path := range n.inOrder() {
		n.end(path, succeeded)
	}
	n.process.end()
}

func (n *Lines) processLine(line string) {
	if n.failure != "" && len(n.failure) < maxFailure && detail().MatchString(line) {
		n.failure += "\n" + line
		return
	}
	n.noteFailure()
	switch ended := n.process.listLine(line); ended.kind {
	case build:
		n.builds.add(n.process, schemas.Counts{Expected: int64(len(ended.paths))})
	case copyPath:
		n.copies.add(n.process, schemas.Counts{Expected: int64(len(ended.paths))})
	}
	if path := quoted(line, "building '"); nixstore.IsDerivation(path) && n.going[path] == nil {
		n.lookSoon() // others may have ended before this one begins
		if d, err := n.process.log.store.Derivation(path); err == nil {
			n.begin(path, build, d.Outputs, &n.builds)
		}
	} else if path := quoted(line, "copying path '"); nixstore.IsPath(path) {
		n.begin(path, copyPath, []string{path}, &n.copies)
	} else if text, ok := strings.CutPrefix(strings.TrimLeft(line, " "), "error: "); ok {
		n.lookSoon()
		if line[0] == 'e' { // an indented error belongs to the one above
			n.endNamed(line)
		}
		n.failure = text
	}
}

// detail matches a line of an error that says why a derivation cannot be built.
var detail = lazyregexp.New(`^ +(Reason|specified|got): `)

// noteFailure processes the error that was printed, if there is one.
func (n *Lines) noteFailure() {
	if n.failure != "" {
		n.process.log.noteError(n.failure, "")
		n.failure = ""
	}
}

// endNamed ends, as failed, those activities whose paths an error message has.
func (n *Lines) endNamed(message string) {
	for _, path := range n.inOrder() {
		if strings.Contains(message, "'"+path+"'") {
			n.end(path, false)
		}
	}
}

// quoted returns the text in quotes that follows the beginning of a line, or "".
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
		return // too many activities
	}
	n.going[path] = &work{n.last, outputs, c}
	c.add(n.process, schemas.Counts{Running: 1})
}

// lookSoon searches the store now if few things are in progress.
func (n *Lines) lookSoon() {
	if len(n.going) <= few {
		n.look()
	}
}

func (n *Lines) lookIfDue() {
	if time.Since(n.looked) >= lookInterval {
		n.look()
	}
}

// look searches the store, and ends what is finished.
func (n *Lines) look() {
	n.looked = time.Now()
	for _, path := range n.inOrder() {
		if n.has(n.going[path].outputs) {
			n.end(path, true)
		}
	}
}

// inOrder returns the paths in progress, in the order in which they began.
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

// end processes the end of a derivation or a download.
func (n *Lines) end(path string, succeeded bool) {
	w := n.going[path]
	delete(n.going, path)
	counts := schemas.Counts{Running: -1}
	if a := n.process.activities[w.id]; a.kind == build {
		n.reportLog(a)
	}
	if succeeded {
		counts.Done = 1
	} else {
		counts.Failed = 1
	}
	w.counter.add(n.process, counts)
	n.process.stop(w.id)
}

// reportLog reports the log of a derivation whose build has ended, all at once. nix-build does not
// report that there is a log, so this reads the file that Nix keeps.
func (n *Lines) reportLog(a *activity) {
	log := n.process.log.newLastLines()
	err := n.process.log.store.Log(a.derivation, func(part string, goesOn bool) {
		n.process.log.tell(schemas.LineEvent{Derivation: a.derivation, Text: log.add(part, goesOn)})
	})
	if err == nil {
		a.log = log
	}
}

// add adds counts and reports the sum.
func (c *counter) add(p *process, more schemas.Counts) {
	c.counts = sum(c.counts, more)
	if c.activity != nil { // nil: too many activities
		p.progress(c.activity, c.counts)
	}
}
