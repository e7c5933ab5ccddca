package buildclient

import (
	"encoding/json"
	"slices"
	"time"

	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/internal/termtext"
	"iglu.sh/builder/schemas"
)

// maxFailed is how many failed derivations a summary shows, and maxBuilding how many derivations that are
// being built the client tracks.
const (
	maxFailed   = 5
	maxBuilding = 1000
)

// progress is the state of a job, from its events.
type progress struct {
	begun    time.Time
	job      string // its id; empty if the builder does not send it
	phase    schemas.Phase
	ahead    int    // jobs that wait before it
	node     string // the node that runs the job; empty if the builder has one engine
	counts   schemas.ProgressEvent
	push     *schemas.PushEvent
	building []building // in the order in which they began
	failed   []schemas.DerivationEvent
	results  *schemas.ResultsEvent
	verdict  *schemas.VerdictEvent
}

// building is a derivation that is being built.
type building struct {
	derivation string
	phase      string // of the derivation's build, such as buildPhase; empty if not known
	since      time.Time
}

func newProgress(now time.Time) *progress { return &progress{begun: now} }

// take applies an event. An unknown event, of a later version, is ignored.
func (p *progress) take(data json.RawMessage, now time.Time) {
	event, err := schemas.ParseEvent(data)
	if err != nil {
		return
	}
	switch e := event.(type) {
	case schemas.JobEvent:
		p.job = e.ID
	case schemas.PhaseEvent:
		p.phase = e.Phase
	case schemas.QueueEvent:
		p.ahead = e.Ahead
	case schemas.NodeEvent:
		p.node = e.Name
	case schemas.RetryEvent:
		*p = progress{begun: p.begun, job: p.job}
	case schemas.ProgressEvent:
		p.counts = e
	case schemas.PushEvent:
		p.push = &e
	case schemas.DerivationEvent:
		p.takeDerivation(e, now)
	case schemas.ResultsEvent:
		p.results = &e
	case schemas.VerdictEvent:
		p.verdict = &e
	}
}

func (p *progress) takeDerivation(e schemas.DerivationEvent, now time.Time) {
	at := slices.IndexFunc(p.building, func(b building) bool { return b.derivation == e.Derivation })
	switch {
	case e.State == schemas.DerivationBuilding && at >= 0:
		p.building[at].phase = e.Phase
	case e.State == schemas.DerivationBuilding && len(p.building) < maxBuilding:
		p.building = append(p.building, building{e.Derivation, e.Phase, now})
	case e.State != schemas.DerivationBuilding && at >= 0:
		p.building = slices.Delete(p.building, at, at+1)
	}
	if e.State == schemas.DerivationFailed && len(p.failed) < maxFailed {
		p.failed = append(p.failed, e)
	}
}

// nameOf returns the name of a derivation without hash and extension: hello-2.12 of
// /nix/store/HASH-hello-2.12.drv.
func nameOf(derivation string) string {
	_, name := nixstore.DerivationName(derivation)
	return termtext.Visible(name)
}
