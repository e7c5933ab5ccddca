package joblog

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/schemas"
)

// Event appends an event, which loses its secrets. Beyond the log's limit it is left out,
// and the lines of derivations before all others. Its error is the first that a file had.
func (l *Log) Event(e schemas.Event) error {
	l.events.Lock() // redaction takes time that lines need not wait for
	defer l.events.Unlock()
	line, minor := e.(schemas.LineEvent)
	isKept, err := l.keep(schemas.AppendEvent(nil, l.redacted(e)), minor)
	if !isKept && minor && err == nil && !l.cutLogs[line.Derivation] && len(l.cutLogs) < maxCutLogs {
		if l.cutLogs == nil {
			l.cutLogs = make(map[string]bool)
		}
		l.cutLogs[line.Derivation] = true
		line.Text = "iglu: the log of this derivation is cut here, because the logs of all take too much (IGLU_MAX_LOG_BYTES)"
		_, err = l.keep(schemas.AppendEvent(nil, l.redacted(line)), false)
	}
	return err
}

// maxCutLogs bounds of how many derivations it is said that their logs are cut.
const maxCutLogs = 1000

// keep appends an event, unless there is no room for it, which the lines of derivations, minor ones, leave
// to others. Its error is the first that a file had.
func (l *Log) keep(event []byte, minor bool) (isKept bool, err error) {
	x := l.index
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.failed != nil || x.sealed || len(event) > maxRecord || !x.journal.hasRoom(len(event), minor) {
		return false, x.failed
	}
	x.journal.other(eventRecord, time.Now().UnixMilli(), event)
	x.flush(false)
	x.wake()
	return true, x.failed
}

// responseMessage is a message that is no line and more than an event, as the journal keeps
// it.
type responseMessage struct {
	Response schemas.Response
	Event    json.RawMessage `json:",omitempty"`
}

// Respond appends the job's first or last message, of which e may be nil. It returns the
// message as readers get it, but for its number where a file has failed. Only Seal may
// follow the last.
func (l *Log) Respond(response schemas.Response, e schemas.Event) schemas.Message {
	response.Error, response.Msg = l.redactor.String(response.Error), l.redactor.String(response.Msg)
	message := schemas.Message{Time: time.Now(), Response: &response}
	if e != nil {
		message.Event = schemas.AppendEvent(nil, l.redacted(e))
	}
	data, err := json.Marshal(responseMessage{response, message.Event})
	if err != nil {
		panic("joblog: a message always encodes: " + err.Error())
	}
	x := l.index
	x.mu.Lock()
	defer x.mu.Unlock()
	if message.Last() {
		l.endCut()
	}
	if x.failed == nil && !x.sealed {
		x.journal.other(responseRecord, message.Time.UnixMilli(), data)
		message.Seq = x.journal.end.messages
		x.flush(false)
		x.wake()
	}
	return message
}

// redacted returns an event without secrets.
func (l *Log) redacted(e schemas.Event) schemas.Event {
	clean := func(text string) string { return l.redactor.String(strings.ToValidUTF8(text, "\ufffd")) }
	switch e := e.(type) {
	case schemas.PlanEvent:
		e.Derivations = slices.Clone(e.Derivations)
		for i := range e.Derivations {
			e.Derivations[i].Derivation = clean(e.Derivations[i].Derivation)
		}
		return e
	case schemas.DerivationEvent:
		e.Derivation, e.Phase = clean(e.Derivation), clean(e.Phase)
		if len(e.Log) > 0 {
			e.Log = strings.Split(clean(strings.Join(e.Log, "\n")), "\n")
		}
		return e
	case schemas.LineEvent:
		text := l.streams.of(e.Derivation, l.redactor).Append(nil, []byte(strings.ToValidUTF8(e.Text, "\ufffd")), false)
		e.Text, e.Derivation = string(text), clean(e.Derivation)
		return e
	case schemas.ResultsEvent:
		return e.Map(clean)
	case schemas.VerdictEvent:
		e.Reason, e.Commit, e.Image = clean(e.Reason), clean(e.Commit), clean(e.Image)
		return e
	default: // numbers and names of our own
		return e
	}
}

// derivationStreams redact the logs of derivations, each for itself, because a secret may
// lie across two lines of one.
type derivationStreams struct {
	known map[string]*redact.Lines
	order []string // the oldest first
}

// maxDerivationStreams is of how many derivations the state is kept, which is more than
// are built at once.
const maxDerivationStreams = 256

func (s *derivationStreams) of(derivation string, redactor *redact.Redactor) *redact.Lines {
	if lines, ok := s.known[derivation]; ok {
		return lines
	}
	if s.known == nil {
		s.known = make(map[string]*redact.Lines)
	}
	if len(s.order) == maxDerivationStreams {
		delete(s.known, s.order[0])
		s.order = s.order[1:]
	}
	lines := redactor.Lines()
	s.known[derivation] = lines
	s.order = append(s.order, derivation)
	return lines
}
