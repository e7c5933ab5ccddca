// Package nixlog converts Nix's log into events: which derivations are built, the progress, and what was
// downloaded. It reads the log in the format for programs ("internal-json"), which Nix writes with the
// setting json-log-path. If there is no such log, it reads the lines that Nix prints for people (lines.go),
// which say less.
//
// The log has one JSON object a line, called a record. Records start and stop activities, and report their
// results. This package uses only some kinds. It ignores the others, and lines that are no record, so that
// it works with other versions of Nix. Its use of memory is limited.
package nixlog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"iglu.sh/builder/internal/lazyregexp"
	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/internal/textcut"
	"iglu.sh/builder/schemas"
)

const (
	// maxRecord is the length in bytes of the longest record that is read. Few are longer than logBuffer.
	maxRecord = 2 << 20
	logBuffer = 64 << 10
	// maxPart is the length in bytes of the parts into which a long line of a builder is split.
	maxPart = 64 << 10
	// maxActivities is how many activities of a log are tracked at the same time.
	maxActivities = 4096
	// maxPhase is the length of the longest name of a phase, in bytes.
	maxPhase = 64
)

// A Log is the log of all Nix processes of a job. Its methods are safe for concurrent use.
type Log struct {
	mu         sync.Mutex
	tell       func(schemas.Event)
	show       func(string) // see OnShown; may be nil
	activities int          // how many are tracked
	begun      bool         // something was built or downloaded
	ended      totals
	running    map[*process]bool
	interval   time.Duration // progressInterval
	timer      *time.Timer   // not nil while there is progress to report
	sent       schemas.ProgressEvent
	store      nixstore.Files
	secrets    func() *redact.Redactor
	numbers    map[string]int  // of the derivations that were listed
	needs      int             // how many of their needs were reported
	started    map[string]bool // the derivations whose builds have started
	restricted map[string]bool // see Restricted
	untrusted  map[string]bool // see Untrusted
	failed     failedBuild     // see failure.go
	several    bool            // more than one build has failed
	lastError  string          // Nix's last error that is about no derivation
}

// New returns a Log for builds in a store. It calls tell for each event, one at a time. It calls secrets
// for the Redactor that masks the kept lines of derivations' logs, when there are any.
func New(tell func(schemas.Event), store nixstore.Files, secrets func() *redact.Redactor) *Log {
	return &Log{tell: tell, interval: progressInterval, store: store, secrets: secrets, running: make(map[*process]bool),
		numbers: make(map[string]int), started: make(map[string]bool)}
}

// A process is a process of Nix. Each process has activities of its own.
type process struct {
	log        *Log
	activities map[uint64]*activity
	undecided  []*activity // derivations that have ended, with a result that is not known yet
	built      int64       // successes that Nix has counted and that are not assigned to a derivation yet
	failed     int64       // the same for failures
	lastFailed bool        // the latest of these counts is of a failure
	counts     bool        // Nix has counted a result
	list       list        // the list that it is printing
	ending     bool        // the process has ended, and its running activities are ended with it
}

func (l *Log) newLastLines() *lastLines { return &lastLines{secrets: l.secrets().Lines()} }

func (l *Log) newProcess() *process {
	p := &process{log: l, activities: make(map[uint64]*activity)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running[p] = true
	return p
}

// An activity is of one of the kinds below.
type activity struct {
	kind       int
	derivation string     // of a build
	phase      string     // of the build
	log        *lastLines // of the build; nil: nothing so far
	counts     schemas.Counts
	bytes      schemas.Share
	expected   int64 // how many bytes Nix expects to copy
}

// The kinds of activities that are used here: logging.hh of Nix.
const (
	copyPath   = 100
	realise    = 102
	copyPaths  = 103
	builds     = 104
	build      = 105
	substitute = 108
)

// The kinds of results that are used here.
const (
	buildLogLine = 101
	setPhase     = 104
	progress     = 105
	setExpected  = 106
)

// A record is a line of Nix's log. Ids can be too large for a float64.
type record struct {
	Action string            `json:"action"`
	ID     uint64            `json:"id"`
	Type   int               `json:"type"`
	Fields []json.RawMessage `json:"fields"`
	Level  int               `json:"level"`
	Text   string            `json:"text"`
	Msg    string            `json:"msg"`
	RawMsg string            `json:"raw_msg"` // of an error: without its location
	File   string            `json:"file"`    // of an error: its location, FILE:LINE:COLUMN
}

// number returns a field that is a count, or 0. It limits the count to 0 … maxCount: the job's own programs
// can write records, too.
func (r *record) number(i int) (n int64) {
	if i < len(r.Fields) && json.Unmarshal(r.Fields[i], &n) != nil {
		n = 0
	}
	return min(max(n, 0), maxCount)
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
	for lines := bufio.NewReaderSize(r, logBuffer); ; {
		line, err := readLine(lines)
		p.processLine(line)
		if err != nil {
			break
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p.end()
}

// readLine returns the next line, which is valid until the next call. Of a line that is longer than maxRecord it
// returns nothing.
func readLine(r *bufio.Reader) ([]byte, error) {
	part, err := r.ReadSlice('\n')
	if err != bufio.ErrBufferFull {
		return part, err
	}
	line := bytes.Clone(part)
	for err == bufio.ErrBufferFull {
		if part, err = r.ReadSlice('\n'); len(line) <= maxRecord {
			line = append(line, part...)
		}
	}
	if len(line) > maxRecord {
		return nil, err
	}
	return line, err
}

// Close reports the last progress. All calls of Read must have returned.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
		l.reportProgress()
	}
}

// processLine processes a line of the log.
func (p *process) processLine(line []byte) {
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

// start processes the start of an activity. derivation is used only for a build. It returns nil if the
// activity is not tracked.
func (p *process) start(id uint64, kind int, derivation string) *activity {
	switch kind {
	case copyPath, realise, copyPaths, builds, build, substitute:
	default:
		return nil
	}
	p.endList()
	if kind == build && nixstore.IsDerivation(derivation) && len(p.log.started) < maxStarted {
		p.log.started[derivation] = true
	}
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

// isPhase reports whether a text may be the name of a phase.
func isPhase(text string) bool {
	return len(text) <= maxPhase && !strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) })
}

func (p *process) line(a *activity, text string) {
	if a.log == nil {
		a.log = p.log.newLastLines()
	}
	if p.log.show != nil {
		p.log.show(shownLine(a.derivation, text))
	}
	for goesOn := true; goesOn; {
		part := text
		if goesOn = len(text) > maxPart; goesOn {
			part = text[:textcut.At(text, maxPart)]
		}
		text = text[len(part):]
		p.log.tell(schemas.LineEvent{Derivation: a.derivation, Text: a.log.add(part, goesOn)})
	}
}

// progress processes the progress of an activity.
func (p *process) progress(a *activity, c schemas.Counts) {
	switch a.kind {
	case builds:
		built, failed := max(0, c.Done-a.counts.Done), max(0, c.Failed-a.counts.Failed)
		p.built += built
		p.failed += failed
		if built+failed > 0 {
			p.lastFailed = failed > 0
		}
		p.counts = p.counts || c.Done > 0 || c.Failed > 0
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

// decide reports the results of derivations. The end of an activity does not have the result, but Nix
// counts the derivation as built or failed right before that. Versions of Nix that do not report each
// change of a count can report it later. An earlier count that is still there is of a derivation whose build has not
// started, such as one for another system.
func (p *process) decide() {
	for len(p.undecided) > 0 && p.built+p.failed > 0 {
		if p.built == 0 || p.failed > 0 && p.lastFailed {
			p.failed--
			p.conclude(0, schemas.DerivationFailed, "")
		} else {
			p.built--
			p.conclude(0, schemas.DerivationBuilt, "")
		}
		if len(p.undecided) == 0 { // the remaining counts are of derivations that are not tracked
			p.built, p.failed = 0, 0
		}
	}
}

// conclude reports the result of an undecided derivation. said is Nix's error about it, or "".
func (p *process) conclude(i int, state schemas.DerivationState, said string) {
	a := p.undecided[i]
	p.undecided = slices.Delete(p.undecided, i, i+1)
	e := schemas.DerivationEvent{Derivation: a.derivation, State: state, Phase: a.phase}
	if state == schemas.DerivationFailed {
		if a.log != nil {
			e.Log = a.log.lines
		}
		if !p.ending { // otherwise it failed only because the process ended
			p.log.fail(a, said)
		}
	}
	p.log.tell(e)
}

// message processes a message for people. An error contains the path of the derivation that has failed.
func (p *process) message(r *record) {
	p.listLine(r.Msg)
	if p.log.show != nil {
		p.log.show(r.Msg)
	}
	text, ok := r.errorText()
	if !ok {
		return
	}
	known := false
	for i := len(p.undecided) - 1; i >= 0; i-- {
		if drv := p.undecided[i].derivation; strings.Contains(r.Msg, drv) {
			p.conclude(i, schemas.DerivationFailed, reasonOf(text, drv))
			known = true
		}
	}
	if !known {
		p.log.noteError(text, r.File)
	}
}

// errorLevel is the level of errors, and of other messages: builtins.trace prints at this level (prim_trace in Nix's
// primops.cc), and whatever a daemon prints, such as a warning, has it (processStderr in worker-protocol-connection.cc).
const errorLevel = 0

// errorWord matches what Nix prints before an error.
var errorWord = lazyregexp.New(`^(?:\x1b\[[0-9;]*m)*error:(?:\x1b\[[0-9;]*m)*\s*`)

// errorText returns the text of an error, without the word "error". ok is false if the message is not an error.
func (r *record) errorText() (text string, ok bool) {
	if r.Level != errorLevel {
		return "", false
	}
	if r.RawMsg != "" { // only errors have it, but not those of the daemon
		return r.RawMsg, true
	}
	word := errorWord().FindString(r.Msg)
	return r.Msg[len(word):], word != ""
}

// end processes the end of the process, which also ends its running activities. If Nix has counted other results,
// those that it has not counted were killed, because another one had failed.
func (p *process) end() {
	p.endList()
	p.ending = true
	for len(p.undecided) > 0 {
		if p.counts {
			p.conclude(0, schemas.DerivationFailed, "")
		} else {
			p.conclude(0, schemas.DerivationBuilt, "")
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.activities)) { // Nix counts up, so this is the order in which they began
		a := p.activities[id]
		if a.kind == build {
			p.undecided = append(p.undecided, a)
			p.conclude(0, schemas.DerivationFailed, "")
			a.kind = 0 // its result is reported already
		}
		p.stop(id)
	}
	delete(p.log.running, p)
}
