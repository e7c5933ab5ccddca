package schemas

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// A Stream is the source of a line of a job's output.
type Stream string

// The streams of a job.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
	Server Stream = "builder" // the server's own lines, which begin with "iglu: "
)

// A Message is one of a job's messages for a client of events: a line of output, an event, or the first or
// the last message, which have the job's state.
type Message struct {
	// Seq is the number of the message, from 1.
	Seq int64
	// Time is the time of the message, to the millisecond.
	Time time.Time

	Stream Stream // of a line of output; empty for all other messages
	Line   []byte // without its line end; valid UTF-8

	// Event is the JSON of an event; nil if there is none. ParseEvent reads it.
	Event json.RawMessage
	// Response is the part that a client without events gets as well; nil for a line and for a message with
	// only an event.
	Response *Response
}

// A MessageWriter gets a job's messages, from the first to the last. It must keep neither the slice nor the lines and
// events of the messages after WriteMessages has returned.
type MessageWriter interface {
	WriteMessages(messages []Message) error
}

// Last reports whether no message of the job comes after m.
func (m *Message) Last() bool {
	return m.Response != nil && (m.Response.JobStatus == Success || m.Response.JobStatus == Failed)
}

const statusRunning = `"jobStatus":"running"`

// AppendMessage appends a message as one line of JSON without a line end. For a line of output it allocates
// nothing.
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
	dst = appendTime(dst, m.Time)
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

// appendTime appends a time in UTC with milliseconds, as RFC 3339 has it. Package time formats RFC 3339 without a
// fraction some times faster than with one.
func appendTime(dst []byte, at time.Time) []byte {
	dst = at.UTC().AppendFormat(dst, time.RFC3339)
	ms := at.Nanosecond() / int(time.Millisecond)
	return append(dst[:len(dst)-len("Z")], '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
}

// appendRunning appends the properties that every message of the format has.
func (f Format) appendRunning(dst []byte, at time.Time) []byte {
	dst = append(dst, statusRunning...)
	if f == Stack {
		dst = append(dst, `,"timestamp":`...)
		dst = strconv.AppendInt(dst, at.UnixMilli(), 10)
	}
	return dst
}

// ParseMessage reads a message of a builder, in either format. Seq is 0 if the message is not for a client of
// events.
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
			m.Stream = Stdout // the message does not say
		}
	case wire.Event == nil || wire.JobStatus != Running:
		m.Response = &wire.Response
	}
	return m, nil
}
