package schemas

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// A Stream is where a line of a job's output comes from.
type Stream string

// The streams of a job.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
	Server Stream = "builder" // the server's own lines, which begin with "iglu: "
)

// A Message is one of a job's messages as a client of events gets it: a line of output, an
// event, or the first or the last message, which say how the job is.
type Message struct {
	// Seq is 1 for the job's first message, and one more for each.
	Seq int64
	// Time is when it came about, to the millisecond.
	Time time.Time

	Stream Stream // of a line of output; empty for all other messages
	Line   []byte // without its line end; valid UTF-8

	// Event is an event's JSON; nil for none. ParseEvent reads it.
	Event json.RawMessage
	// Response is what a client without events gets as well; nil for a line and for what is
	// but an event.
	Response *Response
}

// A MessageWriter takes a job's messages, the first and the last included. The slice is its own
// only until WriteMessages returns.
type MessageWriter interface {
	WriteMessages(messages []Message) error
}

// Last reports whether no message of the job comes after m.
func (m *Message) Last() bool {
	return m.Response != nil && (m.Response.JobStatus == Success || m.Response.JobStatus == Failed)
}

const (
	statusRunning = `"jobStatus":"running"`
	stampTime     = "2006-01-02T15:04:05.000Z" // RFC 3339 in UTC
)

// AppendMessage appends a message as one line of JSON without a line end. Of lines it
// allocates nothing.
func (f Format) AppendMessage(dst []byte, m *Message) []byte {
	switch {
	case m.Response != nil:
		dst = append(dst, f.Encode(*m.Response, m.Time)...)
		dst = dst[:len(dst)-len("}")]
	case m.Event != nil:
		dst = append(dst, '{')
		dst = f.appendRunning(dst, m.Time)
	default:
		dst = append(dst, outputBegin...)
		dst = appendEscaped(dst, m.Line)
		dst = append(dst, `",`...)
		dst = f.appendRunning(dst, m.Time)
	}
	dst = append(dst, `,"seq":`...)
	dst = strconv.AppendInt(dst, m.Seq, 10)
	dst = append(dst, `,"time":"`...)
	dst = m.Time.UTC().AppendFormat(dst, stampTime)
	dst = append(dst, '"')
	if m.Stream != "" {
		dst = append(dst, `,"stream":"`...)
		dst = append(dst, m.Stream...)
		dst = append(dst, '"')
	}
	if m.Event != nil {
		dst = append(dst, `,"event":`...)
		dst = append(dst, m.Event...)
	}
	return append(dst, '}')
}

// appendRunning appends the properties that are in every message of the form.
func (f Format) appendRunning(dst []byte, at time.Time) []byte {
	dst = append(dst, statusRunning...)
	if f == Stack {
		dst = append(dst, `,"timestamp":`...)
		dst = strconv.AppendInt(dst, at.UnixMilli(), 10)
	}
	return dst
}

// ParseMessage returns the message that a builder has sent, in either form, with events or
// without: then its Seq is 0.
func ParseMessage(data []byte) (Message, error) {
	var wire struct {
		Response
		Seq    int64           `json:"seq"`
		Time   time.Time       `json:"time"`
		Stream Stream          `json:"stream"`
		Event  json.RawMessage `json:"event"`
	}
	if err := json.Unmarshal(data, &wire); err != nil {
		return Message{}, fmt.Errorf("read a message: %w", err)
	}
	m := Message{Seq: wire.Seq, Time: wire.Time, Stream: wire.Stream, Event: wire.Event}
	switch {
	case wire.Stdout != nil:
		m.Line = []byte(*wire.Stdout)
		if m.Stream == "" {
			m.Stream = Stdout // not told
		}
	case wire.Event == nil || wire.JobStatus != Running:
		m.Response = &wire.Response
	}
	return m, nil
}
