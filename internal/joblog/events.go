package joblog

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/schemas"
)

// Event appends an event, in which it masks the secrets. It leaves the event out if the journal has reached
// its limit. The limit for lines of derivations is lower than that for other events. Event returns the first
// error of the log's files.
func (l *Log) Event(e schemas.Event) error {
	l.events.Lock() // not index.mu: lines need not wait for the redaction
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

// maxCutLogs is the largest number of derivations for which a line says that their log is cut.
const maxCutLogs = 1000

// keep appends an event if the journal has room for it. A minor event, which is a line of a derivation, may
// use only a part of the room. keep returns the first error of the log's files.
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

// responseMessage is the job's first or last message, in the journal's format.
type responseMessage struct {
	Response schemas.Response
	Event    json.RawMessage `json:",omitempty"`
}

// Respond appends the job's first or last message. e may be nil. It returns the message that readers get; its
// number is 0 if a file has failed. After the last message, only Complete and Close may be called.
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

// redacted returns an event with its secrets masked.
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
	default: // has no text from the job
		return e
	}
}

// derivationStreams redact the logs of derivations, each with its own state, because a secret may extend
// over two lines of one log.
type derivationStreams struct {
	known map[string]*redact.Lines
	order []string // the oldest first
}

// maxDerivationStreams is for how many derivations the state is kept. Fewer are built at once.
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
