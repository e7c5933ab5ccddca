package orchestrator

import (
	"cmp"
	"sync"
	"time"

	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/internal/lazyregexp"
	"iglu.sh/builder/schemas"
)

// A tracker collects what becomes known about a job while it runs. It writes events to the job's log, and stores the
// rest in the Verdict.
type tracker struct {
	lines *joblog.Log // gets the events; may be nil
	begun time.Time

	mu      sync.Mutex
	phase   schemas.Phase // the current phase
	since   time.Time     // when phase began
	verdict Verdict
	stored  int64  // bytes that were added to the Nix store
	nix     string // the version of the image's
	notRun  string // the system that the job is for, if the container does not run it
	machine string // Go's name of the one on which it runs
}

func newTracker() *tracker { return &tracker{begun: time.Now()} }

// runsOn notes on what machine the job runs, by Go's name.
func (t *tracker) runsOn(machine string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.machine = machine
}

// begin says that a phase begins, unless it has.
func (t *tracker) begin(phase schemas.Phase) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if phase == t.phase {
		return
	}
	t.endPhase()
	t.phase, t.since = phase, time.Now()
	t.event(schemas.PhaseEvent{Phase: phase})
}

// waits records that the job waits for a slot. ahead is how many jobs are before it in the queue.
func (t *tracker) waits(ahead int) {
	t.begin(schemas.Wait)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.event(schemas.QueueEvent{Ahead: ahead})
}

// again resets the tracker, because the job runs once more after its node was lost.
func (t *tracker) again(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endPhase()
	t.phase, t.stored, t.nix, t.notRun = "", 0, "", ""
	t.verdict = Verdict{Phases: t.verdict.Phases}
	t.event(schemas.RetryEvent{Node: node})
}

func (t *tracker) endPhase() {
	if t.phase != "" && t.phase != schemas.Done {
		t.verdict.Phases = append(t.verdict.Phases, schemas.PhaseTime{Phase: t.phase, Seconds: seconds(time.Since(t.since))})
	}
}

// event writes an event to the log. It ignores the error, which the log returns again when output is written.
func (t *tracker) event(e schemas.Event) {
	if t.lines != nil {
		t.lines.Event(e)
	}
}

// pulling returns a function that begins the phase Pull and calls say.
func (t *tracker) pulling(say func(string)) func(string) {
	return func(line string) {
		t.begin(schemas.Pull)
		say(line)
	}
}

// creates records that the job's container is created from an image.
func (t *tracker) creates(image string) {
	t.mu.Lock()
	t.verdict.Image = image
	t.mu.Unlock()
	t.begin(schemas.Create)
}

// insidePhases are the phases that the program in the container reports.
var insidePhases = map[schemas.Phase]bool{schemas.Fetch: true, schemas.Evaluate: true, schemas.Build: true, schemas.PushRest: true}

// commitForm matches the id of a commit, which is a SHA-1 or SHA-256 digest.
var commitForm = lazyregexp.New(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// nixForm matches a version of Nix.
var nixForm = lazyregexp.New(`^\d+\.\d+[!-~]{0,40}$`)

// take stores what the program in the container reports.
func (t *tracker) take(n jobwire.Record) {
	if n.Event != nil {
		t.takeEvent(n.Event)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if commitForm().MatchString(n.Commit) {
		t.verdict.Commit = n.Commit
	}
	if nixForm().MatchString(n.Nix) {
		t.nix = n.Nix
	}
	t.notRun = cmp.Or(t.notRun, n.NotRun)
	if n.Usage != nil {
		t.verdict.Usage = *n.Usage
		t.stored = n.Usage.StoreBytes
	}
	if n.End != nil {
		t.verdict.reason, t.verdict.advice = n.End.Reason, n.End.Advice
	}
	if n.Pushed != nil {
		t.verdict.Pushed = n.Pushed
	}
}

func (t *tracker) takeEvent(data []byte) {
	e, err := schemas.ParseEvent(data)
	if err != nil {
		return // the program has another version
	}
	switch e := e.(type) {
	case schemas.PhaseEvent:
		if insidePhases[e.Phase] {
			t.begin(e.Phase)
		}
	case schemas.ResultsEvent:
		t.mu.Lock()
		t.verdict.Results = &e
		t.mu.Unlock()
		t.event(e)
	case schemas.PlanEvent, schemas.DerivationEvent, schemas.LineEvent, schemas.ProgressEvent, schemas.PushEvent:
		t.event(e)
	}
}

// nixVersion returns the version of the image's Nix, or "" if it is not known.
func (t *tracker) nixVersion() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.nix
}

// storeBytes returns how many bytes the job has added to its Nix store, according to its last report.
func (t *tracker) storeBytes() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stored
}

// close returns a verdict with everything that is known about the job.
func (t *tracker) close(v Verdict) Verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endPhase()
	t.phase = ""
	known := t.verdict
	known.ExitCode, known.Err, known.Duration = v.ExitCode, v.Err, time.Since(t.begun)
	if v.Err == nil && t.notRun != "" {
		known.Err = notRun(t.notRun, t.machine, howToRun)
	}
	if known.Phases == nil {
		known.Phases = []schemas.PhaseTime{}
	}
	return known
}
