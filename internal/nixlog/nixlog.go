// Package nixlog reads what Nix tells of its work for programs ("internal-json", as the
// setting json-log-path sends it) and makes events of it: which derivations are built, how
// far that is, and what was downloaded. Where Nix tells programs nothing, it makes what it
// can of the lines for people (lines.go).
//
// Nix's records are objects, one a line. They begin and end activities and report results of
// them. Only some kinds are of interest here; others, and lines that are no record, are
// ignored, so that another version of Nix does no harm. What is kept in memory is bounded.
package nixlog

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/schemas"
)

const (
	// maxRecord is the length in bytes of the longest record that is read.
	maxRecord = 64 << 10
	// maxActivities is of how many activities at once a log knows.
	maxActivities = 4096
	// maxCount bounds what is counted: up to it, every program reads numbers in JSON exactly (RFC
	// 8259, section 6).
	maxCount = 1<<53 - 1
	// maxPhase is how long the name of a phase may be, in bytes.
	maxPhase = 64
	// progressInterval is how often progress is told at most.
	progressInterval = 100 * time.Millisecond
)

// A Log is what all of a job's Nix processes have told together. Its methods are safe for
// concurrent use.
type Log struct {
	mu         sync.Mutex
	tell       func(schemas.Event)
	show       func(string) // see shown.go; nil: nobody wants that
	activities int          // known ones
	begun      bool         // something was built or downloaded
	ended      totals
	running    map[*process]bool
	interval   time.Duration // progressInterval
	timer      *time.Timer   // runs while there is progress to tell
	told       schemas.ProgressEvent
	store      nixstore.Files
	secrets    func() *redact.Redactor
	numbers    map[string]int  // of the derivations that were listed
	needs      int             // how many needs of them were told
	restricted map[string]bool // see restricted.go
	untrusted  map[string]bool // likewise
	failed     failedBuild     // see failure.go
	lastError  string          // of Nix, that is about no derivation
}

// totals are what activities that have ended amount to.
type totals struct {
	derivations, paths schemas.Counts
	bytes              schemas.Share
}

// New returns a Log of what is built in a store, which calls tell for each event, one at a
// time. It calls secrets when it first keeps the last lines of a derivation's log, for what is
// masked in them.
func New(tell func(schemas.Event), store nixstore.Files, secrets func() *redact.Redactor) *Log {
	return &Log{tell: tell, interval: progressInterval, store: store, secrets: secrets, running: make(map[*process]bool), numbers: make(map[string]int)}
}

// A process is one of Nix, with activities of its own.
type process struct {
	log        *Log
	activities map[uint64]*activity
	undecided  []*activity // derivations whose end is known, but not how they ended
	built      int64       // how many ends have been counted that are not theirs yet
	failed     int64
	list       list // that it prints
	ending     bool // what was going on is ended with it
}

func (l *Log) newTail() *lastLines { return &lastLines{secrets: l.secrets().Lines()} }

func (l *Log) newProcess() *process {
	p := &process{log: l, activities: make(map[uint64]*activity)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running[p] = true
	return p
}

// activity is one of the types below.
type activity struct {
	kind       int
	derivation string     // that is built
	phase      string     // of its builder
	log        *lastLines // nil while nothing of it is known
	counts     schemas.Counts
	bytes      schemas.Share
	expected   int64 // bytes, of the copies that belong to it
}

// The types of activities that are of interest: logging.hh of Nix.
const (
	copyPath   = 100
	realise    = 102
	copyPaths  = 103
	builds     = 104
	build      = 105
	substitute = 108
)

// The types of their results.
const (
	buildLogLine = 101
	setPhase     = 104
	progress     = 105
	setExpected  = 106
)

// record is one of Nix's. Ids exceed what a float64 holds exactly.
type record struct {
	Action string            `json:"action"`
	ID     uint64            `json:"id"`
	Type   int               `json:"type"`
	Fields []json.RawMessage `json:"fields"`
	Level  int               `json:"level"`
	Text   string            `json:"text"`
	Msg    string            `json:"msg"`
	RawMsg string            `json:"raw_msg"` // of an error: without where it came about
	File   string            `json:"file"`    // that an error is about, with line and column
}

// number returns a field that is a number. Programs of the job can write records as well as Nix:
// what is no count, or none that makes sense, is 0 or as much as there can be.
func (r *record) number(i int) (n int64) {
	if i < len(r.Fields) && json.Unmarshal(r.Fields[i], &n) != nil {
		n = 0
	}
	return min(max(n, 0), maxCount)
}

// add adds counts.
func add(counts ...int64) (sum int64) {
	for _, n := range counts {
		sum = min(sum+n, maxCount) // each is at most that much
	}
	return sum
}

func (r *record) text(i int) (text string) {
	if i < len(r.Fields) {
		json.Unmarshal(r.Fields[i], &text)
	}
	return text
}

// Read reads the records of one Nix process to their end. Activities that have not ended by
// then have failed.
func (l *Log) Read(r io.Reader) {
	p := l.newProcess()
	for lines := bufio.NewReaderSize(r, maxRecord); ; {
		line, err := lines.ReadSlice('\n')
		for err == bufio.ErrBufferFull { // too long
			if _, err = lines.ReadSlice('\n'); err == nil {
				line = nil
			}
		}
		p.take(line)
		if err != nil {
			break
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p.end()
}

// Close tells the last progress. No process may be read any more.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
		l.tellProgress()
	}
}

// take takes one line.
func (p *process) take(line []byte) {
	var r record
	if len(line) == 0 || json.Unmarshal(bytes.TrimPrefix(line, []byte("@nix ")), &r) != nil {
		return
	}
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	switch r.Action {
	case "start":
		p.start(r.ID, r.Type, r.text(0))
		if p.log.show != nil && r.Text != "" {
			p.log.show(r.Text + "...")
		}
	case "stop":
		p.stop(r.ID)
	case "result":
		if a := p.activities[r.ID]; a != nil {
			p.result(a, &r)
		}
	case "msg":
		p.message(&r)
	}
}

// start takes the beginning of an activity, which may be the build of a derivation. It returns
// nil if that is of no interest.
func (p *process) start(id uint64, kind int, derivation string) *activity {
	switch kind {
	case copyPath, realise, copyPaths, builds, build, substitute:
	default:
		return nil
	}
	p.endList()
	if p.activities[id] != nil || p.log.activities == maxActivities || kind == build && !nixstore.IsDerivation(derivation) {
		return nil
	}
	p.log.activities++
	a := &activity{kind: kind}
	p.activities[id] = a
	if !p.log.begun && (a.kind == build || a.kind == substitute || a.kind == copyPath) {
		p.log.begun = true
		p.log.tell(schemas.PhaseEvent{Phase: schemas.Build})
	}
	if a.kind == build {
		a.derivation = derivation
		p.log.plan([]string{derivation})
		p.log.tell(schemas.DerivationEvent{Derivation: derivation, State: schemas.DerivationBuilding})
	}
	return a
}

func (p *process) stop(id uint64) {
	a := p.activities[id]
	if a == nil {
		return
	}
	delete(p.activities, id)
	p.log.activities--
	ended := &p.log.ended
	switch a.kind {
	case build:
		p.undecided = append(p.undecided, a)
		p.decide()
	case builds:
		ended.derivations = sum(ended.derivations, over(a.counts))
	case copyPaths:
		ended.paths = sum(ended.paths, over(a.counts))
	case copyPath:
		ended.bytes.Done = add(ended.bytes.Done, a.bytes.Done)
	}
	p.log.changed()
}

func (p *process) result(a *activity, r *record) {
	switch r.Type {
	case buildLogLine:
		if a.kind == build {
			p.line(a, r.text(0))
		}
	case setPhase:
		if phase := r.text(0); a.kind == build && phase != a.phase && isPhase(phase) {
			a.phase = phase
			p.log.tell(schemas.DerivationEvent{Derivation: a.derivation, State: schemas.DerivationBuilding, Phase: phase})
		}
	case progress:
		p.progress(a, schemas.Counts{Done: r.number(0), Expected: r.number(1), Running: r.number(2), Failed: r.number(3)})
	case setExpected:
		if r.number(0) == copyPath {
			a.expected = r.number(1)
			p.log.changed()
		}
	}
}

// isPhase reports whether a text can be the name of a phase.
func isPhase(text string) bool {
	return len(text) <= maxPhase && !strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) })
}

func (p *process) line(a *activity, text string) {
	if a.log == nil {
		a.log = p.log.newTail()
	}
	a.log.add(text, false)
	if p.log.show != nil {
		p.log.show(shownLine(a.derivation, text))
	}
	p.log.tell(schemas.LineEvent{Derivation: a.derivation, Text: text})
}

// progress takes how far an activity has come.
func (p *process) progress(a *activity, c schemas.Counts) {
	switch a.kind {
	case builds:
		p.built += max(0, c.Done-a.counts.Done)
		p.failed += max(0, c.Failed-a.counts.Failed)
		a.counts = c
		p.decide()
	case copyPaths:
		a.counts = c
	case copyPath:
		a.bytes = schemas.Share{Done: c.Done, Expected: c.Expected}
	default:
		return
	}
	p.log.changed()
}

// decide tells how derivations have ended. The end of their activity does not say it, but Nix
// counts them as built or failed right before; or later, in versions that do not report each
// change of a count.
func (p *process) decide() {
	for len(p.undecided) > 0 && p.built+p.failed > 0 {
		if p.failed > 0 {
			p.failed--
			p.conclude(0, schemas.DerivationFailed, "")
		} else {
			p.built--
			p.conclude(0, schemas.DerivationBuilt, "")
		}
		if len(p.undecided) == 0 { // what is counted beyond is of derivations that were not seen
			p.built, p.failed = 0, 0
		}
	}
}

// conclude tells how an undecided derivation has ended, and notes what Nix has said of it, if anything.
func (p *process) conclude(i int, state schemas.DerivationState, said string) {
	a := p.undecided[i]
	p.undecided = slices.Delete(p.undecided, i, i+1)
	e := schemas.DerivationEvent{Derivation: a.derivation, State: state, Phase: a.phase}
	if state == schemas.DerivationFailed {
		if a.log != nil {
			e.Log = a.log.lines
		}
		if !p.ending { // else it has failed because of something else
			p.log.fail(a, said)
		}
	}
	p.log.tell(e)
}

// message takes what Nix says to people. An error names the derivation that has failed.
func (p *process) message(r *record) {
	const errorLevel = 0
	p.listLine(r.Msg)
	if p.log.show != nil {
		p.log.show(r.Msg)
	}
	if r.Level != errorLevel {
		return
	}
	text, known := cmp.Or(r.RawMsg, r.Msg), false
	for i := len(p.undecided) - 1; i >= 0; i-- {
		if drv := p.undecided[i].derivation; strings.Contains(r.Msg, drv) {
			p.conclude(i, schemas.DerivationFailed, reasonOf(text, drv))
			known = true
		}
	}
	if !known {
		p.log.hasFailed(text, r.File)
	}
}

// end takes the end of the process. What was going on was ended with it.
func (p *process) end() {
	p.endList()
	for len(p.undecided) > 0 {
		p.conclude(0, schemas.DerivationBuilt, "")
	}
	p.ending = true
	for id, a := range p.activities {
		if a.kind == build {
			p.undecided = append(p.undecided, a)
			p.conclude(0, schemas.DerivationFailed, "")
			a.kind = 0 // it is told
		}
		p.stop(id)
	}
	delete(p.log.running, p)
}

// changed has the progress told soon.
func (l *Log) changed() {
	if l.timer == nil {
		l.timer = time.AfterFunc(l.interval, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.timer != nil {
				l.tellProgress()
			}
		})
	}
}

func (l *Log) tellProgress() {
	l.timer = nil
	if e := l.progress(); e != l.told {
		l.told = e
		l.tell(e)
	}
}

// progress returns how far all processes have come together.
func (l *Log) progress() schemas.ProgressEvent {
	e := schemas.ProgressEvent{Derivations: l.ended.derivations, Paths: l.ended.paths, Bytes: l.ended.bytes}
	expected, copied := int64(0), int64(0)
	for p := range l.running {
		for _, a := range p.activities {
			switch a.kind {
			case builds:
				e.Derivations = sum(e.Derivations, a.counts)
			case copyPaths:
				e.Paths = sum(e.Paths, a.counts)
			case copyPath:
				e.Bytes.Done = add(e.Bytes.Done, a.bytes.Done)
				copied = add(copied, a.bytes.Expected)
			}
			expected = add(expected, a.expected)
		}
	}
	e.Bytes.Expected = max(e.Bytes.Done, add(l.ended.bytes.Done, copied), expected)
	for _, c := range []*schemas.Counts{&e.Derivations, &e.Paths} {
		c.Expected = max(c.Expected, add(c.Done, c.Running, c.Failed))
	}
	return e
}

func sum(a, b schemas.Counts) schemas.Counts {
	return schemas.Counts{Done: add(a.Done, b.Done), Running: add(a.Running, b.Running), Expected: add(a.Expected, b.Expected), Failed: add(a.Failed, b.Failed)}
}

// over returns what is left of counts when nothing goes on any more.
func over(c schemas.Counts) schemas.Counts {
	return schemas.Counts{Done: c.Done, Failed: c.Failed, Expected: add(c.Done, c.Failed)}
}
