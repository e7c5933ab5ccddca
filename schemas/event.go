package schemas

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// EventsProtocol is the WebSocket subprotocol for clients of events. Their messages also have a number, a
// time, the stream of a line, and events.
const EventsProtocol = "iglu-events.v1"

// An Event is something that happens in a job besides its output. It is one of the types below. In its JSON
// the first property is "type", the name of the event's type.
type Event interface{ eventType() string }

// A Phase is a part of a job, from its acceptance to its end. Each begins when the one before ends. A job
// skips the phases that it does not need.
type Phase string

// The phases of a job, in their order.
const (
	Wait     Phase = "wait"     // all slots are taken
	Pull     Phase = "pull"     // the job image is pulled from its registry
	Create   Phase = "create"   // the container is created and started
	Fetch    Phase = "fetch"    // the source is cloned
	Evaluate Phase = "evaluate" // the command runs, and builds nothing yet
	Build    Phase = "build"    // from the first derivation or download on
	PushRest Phase = "push"     // the command has ended, and some paths are not pushed yet
	Done     Phase = "done"     // the container has ended
)

// JobEvent has the job's id. It is in the job's first message.
type JobEvent struct {
	ID string `json:"id"`
	// URL is the address of the job's page; empty if the builder does not know its own.
	URL string `json:"url,omitempty"`
}

// PhaseEvent reports that a phase begins.
type PhaseEvent struct {
	Phase Phase `json:"phase"`
}

// QueueEvent reports that the job waits for a free slot, and its position.
type QueueEvent struct {
	Ahead int `json:"ahead"` // jobs that wait before it
}

// NodeEvent reports which of several nodes runs the job.
type NodeEvent struct {
	Name string `json:"name"`
}

// RetryEvent reports that the job's node is lost, or that the job could not begin there, and that the job runs once more.
// All phases, derivations and counts in earlier events belong to the first run.
type RetryEvent struct {
	Node string `json:"node"` // the name of that node
}

// PlanEvent lists derivations that will be built and that earlier events did not list. The derivations of a
// job are numbered in their order, from 0.
type PlanEvent struct {
	First       int                 `json:"first"` // the number of the first one here
	Derivations []PlannedDerivation `json:"derivations"`
}

// PlannedDerivation is a derivation in a PlanEvent.
type PlannedDerivation struct {
	// Derivation is the path of its .drv file in the store.
	Derivation string `json:"derivation"`
	// Needs are the numbers of the derivations that must be built before it, each less than its own.
	Needs []int `json:"needs,omitempty"`
}

// A DerivationState is the state of a derivation.
type DerivationState string

// The states of a derivation.
const (
	DerivationBuilding DerivationState = "building"
	DerivationBuilt    DerivationState = "built"
	DerivationFailed   DerivationState = "failed"
)

// DerivationEvent reports a new state or phase of a derivation.
type DerivationEvent struct {
	// Derivation is the path of its .drv file in the store.
	Derivation string          `json:"derivation"`
	State      DerivationState `json:"state"`
	// Phase is the phase of its build, such as buildPhase; empty if not known.
	Phase string `json:"phase,omitempty"`
	// Log has the last lines of the log of a failed derivation, at most 20.
	Log []string `json:"log,omitempty"`
}

// LineEvent is a line of a derivation's own log, without its line end.
type LineEvent struct {
	Derivation string `json:"derivation"`
	Text       string `json:"text"`
}

// Counts are numbers of derivations or paths by state. Expected is the total. It can grow and shrink while Nix
// plans.
type Counts struct {
	Done     int64 `json:"done"`
	Running  int64 `json:"running"`
	Expected int64 `json:"expected"`
	Failed   int64 `json:"failed"`
}

// Share is how much is done, and the expected total.
type Share struct {
	Done     int64 `json:"done"`
	Expected int64 `json:"expected"`
}

// ProgressEvent reports the progress of the whole build.
type ProgressEvent struct {
	Derivations Counts `json:"derivations"` // to build
	Paths       Counts `json:"paths"`       // to download
	Bytes       Share  `json:"bytes"`       // of the downloads
}

// PushEvent reports the progress of the whole push.
type PushEvent struct {
	Paths Share `json:"paths"`
	Bytes int64 `json:"bytes"` // sent
}

// PhaseTime is how long a phase has taken.
type PhaseTime struct {
	Phase   Phase   `json:"phase"`
	Seconds float64 `json:"seconds"`
}

// Pushed is what a job has pushed.
type Pushed struct {
	Paths int64 `json:"paths"`
	Bytes int64 `json:"bytes"` // sent
}

// A Result is the result of one of the things that a command builds.
type Result struct {
	// Installable is its name in the command; empty if it is not known which one the paths belong to.
	Installable string   `json:"installable,omitempty"`
	Paths       []string `json:"paths"` // of its outputs in the store
}

// ResultsEvent has the known results of a command that succeeded, and where they are.
type ResultsEvent struct {
	Results []Result `json:"results"`
	// Pushed is nil if the job does not push. Target is the URL of the cache that the job pushes to.
	Pushed *Pushed `json:"pushed,omitempty"`
	Target string  `json:"target,omitempty"`
	// Get is the command that gets the results from the cache; empty if not all are there.
	Get string `json:"get,omitempty"`
}

// Paths returns those of all results, each once.
func (e ResultsEvent) Paths() (paths []string) {
	for _, r := range e.Results {
		for _, path := range r.Paths {
			if !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
		}
	}
	return paths
}

// Map returns the event with its texts changed.
func (e ResultsEvent) Map(change func(string) string) ResultsEvent {
	results := make([]Result, 0, len(e.Results)) // a list, also of none
	for _, r := range e.Results {
		paths := slices.Clone(r.Paths)
		for i := range paths {
			paths[i] = change(paths[i])
		}
		results = append(results, Result{change(r.Installable), paths})
	}
	e.Results, e.Target, e.Get = results, change(e.Target), change(e.Get)
	return e
}

// VerdictEvent is the result of a job. It is in the job's last message.
type VerdictEvent struct {
	// End is the job's end, one of the words of package jobend.
	End string `json:"end"`
	// Reason is why the job failed, in one line; empty if it did not fail.
	Reason string `json:"reason,omitempty"`
	// ExitCode is the container's; nil if it has none.
	ExitCode *int `json:"exitCode,omitempty"`
	// Seconds is how long the job has taken.
	Seconds float64 `json:"seconds"`
	// PeakMemory is the largest memory use of the job in bytes, and CPUSeconds its CPU time; 0 if not known.
	PeakMemory int64       `json:"peakMemory,omitempty"`
	CPUSeconds float64     `json:"cpuSeconds,omitempty"`
	Phases     []PhaseTime `json:"phases"`
	// Commit is the id of the commit that was built; empty if there is none.
	Commit string `json:"commit,omitempty"`
	// Image is the digest of the job's image in its registry, or of the image itself if it is from no
	// registry. It is empty if the job ended before its container was created.
	Image string `json:"image,omitempty"`
	// Pushed is nil if the job does not push.
	Pushed *Pushed `json:"pushed,omitempty"`
}

func (JobEvent) eventType() string        { return "job" }
func (PhaseEvent) eventType() string      { return "phase" }
func (QueueEvent) eventType() string      { return "queue" }
func (NodeEvent) eventType() string       { return "node" }
func (RetryEvent) eventType() string      { return "retry" }
func (PlanEvent) eventType() string       { return "plan" }
func (DerivationEvent) eventType() string { return "derivation" }
func (LineEvent) eventType() string       { return "line" }
func (ProgressEvent) eventType() string   { return "progress" }
func (PushEvent) eventType() string       { return "push" }
func (ResultsEvent) eventType() string    { return "results" }
func (VerdictEvent) eventType() string    { return "verdict" }

// eventBegin is the beginning of the JSON of every event, before its type.
const eventBegin = `{"type":"`

// AppendEvent appends an event as JSON. Strings in it must be valid UTF-8.
func AppendEvent(dst []byte, e Event) []byte {
	line, isLine := e.(LineEvent)
	if isLine {
		const around = len(eventBegin) + len(`line","derivation":"","text":""}`)
		dst = slices.Grow(dst, around+len(line.Derivation)+len(line.Text))
	}
	dst = append(dst, eventBegin...)
	dst = append(dst, e.eventType()...)
	if isLine { // faster, for long logs
		dst = append(dst, `","derivation":"`...)
		dst = appendEscaped(dst, []byte(line.Derivation))
		dst = append(dst, `","text":"`...)
		dst = appendEscaped(dst, []byte(line.Text))
		return append(dst, `"}`...)
	}
	dst = append(dst, `",`...)
	return append(dst, bytes.TrimPrefix(encode(e), []byte{'{'})...) // every event has a property
}

// ParseEvent returns the event that AppendEvent has encoded, or nil if its type is unknown, because it is of a
// later version.
func ParseEvent(data []byte) (Event, error) {
	switch typeOf(data) {
	case JobEvent{}.eventType():
		return parseEvent[JobEvent](data)
	case PhaseEvent{}.eventType():
		return parseEvent[PhaseEvent](data)
	case QueueEvent{}.eventType():
		return parseEvent[QueueEvent](data)
	case NodeEvent{}.eventType():
		return parseEvent[NodeEvent](data)
	case RetryEvent{}.eventType():
		return parseEvent[RetryEvent](data)
	case PlanEvent{}.eventType():
		return parseEvent[PlanEvent](data)
	case DerivationEvent{}.eventType():
		return parseEvent[DerivationEvent](data)
	case LineEvent{}.eventType():
		return parseEvent[LineEvent](data)
	case ProgressEvent{}.eventType():
		return parseEvent[ProgressEvent](data)
	case PushEvent{}.eventType():
		return parseEvent[PushEvent](data)
	case ResultsEvent{}.eventType():
		return parseEvent[ResultsEvent](data)
	case VerdictEvent{}.eventType():
		return parseEvent[VerdictEvent](data)
	}
	var unknown struct{ Type string }
	if err := json.Unmarshal(data, &unknown); err != nil {
		return nil, fmt.Errorf("read an event: %w", err)
	}
	return nil, nil
}

// typeOf returns the type of an event. Where AppendEvent puts it, it is read without the rest of the event, which can
// be long. Of invalid JSON, it returns any text.
func typeOf(data []byte) string {
	if rest, ok := bytes.CutPrefix(data, []byte(eventBegin)); ok {
		if name, _, ok := bytes.Cut(rest, []byte{'"'}); ok && bytes.IndexByte(name, '\\') < 0 {
			return string(name)
		}
	}
	var named struct{ Type string }
	json.Unmarshal(data, &named)
	return named.Type
}

func parseEvent[E Event](data []byte) (Event, error) {
	var e E
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, fmt.Errorf("read an event: %w", err)
	}
	return e, nil
}
