package orchestrator

import (
	"cmp"
	"regexp"
	"sync"
	"time"

	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/schemas"
)

// An account is what comes to be known of a job while it runs. It tells the job's log of
// events, and the Verdict of the rest.
type account struct {
	lines *joblog.Log // nil: nobody is told
	begun time.Time

	mu          sync.Mutex
	phase       schemas.Phase // the present one
	since       time.Time     // when that began
	verdict     Verdict
	stored      int64  // bytes that were added to the Nix store
	stdoutEnded bool   // with the record of a job that has succeeded
	stderrEnded bool   // likewise
	nix         string // the version of the image's
	notRun      string // the system that the job is for, if the container does not run it
}

func newAccount() *account { return &account{begun: time.Now()} }

// begin says that a phase begins, unless it has.
func (a *account) begin(phase schemas.Phase) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if phase == a.phase {
		return
	}
	a.endPhase()
	a.phase, a.since = phase, time.Now()
	a.event(schemas.PhaseEvent{Phase: phase})
}

func (a *account) endPhase() {
	if a.phase != "" && a.phase != schemas.Done {
		a.verdict.Phases = append(a.verdict.Phases, schemas.PhaseTime{Phase: a.phase, Seconds: seconds(time.Since(a.since))})
	}
}

// event tells the log. Its error comes again where output is written.
func (a *account) event(e schemas.Event) {
	if a.lines != nil {
		a.lines.Event(e)
	}
}

// pulling returns say, which now also begins the phase Pull.
func (a *account) pulling(say func(string)) func(string) {
	return func(line string) {
		a.begin(schemas.Pull)
		say(line)
	}
}

// creates says that a container is made of an image.
func (a *account) creates(image string) {
	a.mu.Lock()
	a.verdict.Image = image
	a.mu.Unlock()
	a.begin(schemas.Create)
}

// insidePhases are those that the program in the container tells of.
var insidePhases = map[schemas.Phase]bool{schemas.Fetch: true, schemas.Evaluate: true, schemas.Build: true, schemas.PushRest: true}

// commitForm is that of a commit's id, of SHA-1 or SHA-256.
var commitForm = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// nixForm is that of a version of Nix.
var nixForm = regexp.MustCompile(`^\d+\.\d+[!-~]{0,40}$`)

// take takes what the program in the container tells.
func (a *account) take(n jobwire.Note) {
	if n.Event != nil {
		a.takeEvent(n.Event)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if commitForm.MatchString(n.Commit) {
		a.verdict.Commit = n.Commit
	}
	if nixForm.MatchString(n.Nix) {
		a.nix = n.Nix
	}
	a.notRun = cmp.Or(a.notRun, n.NotRun)
	if n.Usage != nil {
		a.verdict.Usage = *n.Usage
		a.stored = n.Usage.StoreBytes
	}
	a.stdoutEnded = a.stdoutEnded || n.Succeeded
	if n.Pushed != nil {
		a.verdict.Pushed = n.Pushed
	}
}

func (a *account) takeEvent(data []byte) {
	e, err := schemas.ParseEvent(data)
	if err != nil {
		return // from a program of another version
	}
	switch e := e.(type) {
	case schemas.PhaseEvent:
		if insidePhases[e.Phase] {
			a.begin(e.Phase)
		}
	case schemas.PlanEvent, schemas.DerivationEvent, schemas.LineEvent, schemas.ProgressEvent, schemas.PushEvent:
		a.event(e)
	}
}

// takeStderr takes what the program in the container tells in its standard error.
func (a *account) takeStderr(n jobwire.Note) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stderrEnded = a.stderrEnded || n.Succeeded
}

// hasSucceeded reports whether the program in the container has said that it is about to
// exit with 0, and all its output has come.
func (a *account) hasSucceeded() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stdoutEnded && a.stderrEnded
}

// nixVersion returns the version of the image's Nix, or "" if that is not known.
func (a *account) nixVersion() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.nix
}

// storeBytes returns how many bytes the job has added to its Nix store, as far as it told.
func (a *account) storeBytes() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stored
}

// close returns a verdict with all that is known.
func (a *account) close(v Verdict) Verdict {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.endPhase()
	a.phase = ""
	known := a.verdict
	known.ExitCode, known.Err, known.Duration = v.ExitCode, v.Err, time.Since(a.begun)
	if v.Err == nil && a.notRun != "" {
		known.Err = notRun(a.notRun, howToRun)
	}
	if known.Phases == nil {
		known.Phases = []schemas.PhaseTime{}
	}
	return known
}
