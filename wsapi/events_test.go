package wsapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/schemas"
)

// verdict is the last message of a job for a client of events.
func verdict(seq int64, code int) schemas.Message {
	m := answer(schemas.Exited(code))
	m.Seq = seq
	m.Event = json.RawMessage(fmt.Sprintf(`{"type":"verdict","end":"exited","exitCode":%d,"seconds":1,"phases":[]}`, code))
	return m
}

// jobMessages are all of a job but the last.
func jobMessages() []schemas.Message {
	accepted, now := schemas.Accepted(), time.Now()
	return []schemas.Message{
		{Seq: 1, Time: now, Response: &accepted},
		{Seq: 2, Time: now, Event: json.RawMessage(`{"type":"phase","phase":"create"}`)},
		{Seq: 3, Time: now, Stream: schemas.Server, Line: []byte("iglu: running nix")},
		{Seq: 4, Time: now, Stream: schemas.Stderr, Line: []byte(`"warning"`)},
	}
}

// writing is a builder whose jobs write messages in so many calls, the last included.
func writing(t *testing.T, last schemas.Message, calls ...[]schemas.Message) *fakeBuilder {
	return &fakeBuilder{build: func(_ context.Context, _ *schemas.Request, out io.Writer) schemas.Message {
		for _, messages := range calls {
			if err := out.(schemas.MessageWriter).WriteMessages(messages); err != nil {
				t.Errorf("the client is not there: %v", err)
			}
		}
		return last
	}}
}

// TestEvents sends a job's messages to a client of events: numbered, and the last when the
// slot is free.
func TestEvents(t *testing.T) {
	forms(t, func(t *testing.T, format schemas.Format) {
		messages, last := jobMessages(), verdict(5, 3)
		f := serve(t, writing(t, last, messages[:1], nil, messages[1:], []schemas.Message{last}))
		c := f.dial(schemas.EventsProtocol)
		if got := c.Subprotocol(); got != schemas.EventsProtocol {
			t.Fatalf("the server speaks %q", got)
		}
		c.send(jobIn(format, "nix"))
		var want []string
		for _, m := range append(messages, last) {
			want = append(want, string(format.AppendMessage(nil, &m)))
		}
		c.finish().check(t, websocket.CloseInternalServerErr, want...)

		success := f.dial(schemas.EventsProtocol)
		f.server.builder = writing(t, verdict(1, 0))
		success.send(jobIn(format, "nix"))
		if got := success.finish(); got.code != websocket.CloseNormalClosure || len(got.messages) != 1 {
			t.Errorf("success gets %+v", got)
		}
	})
}

// TestManyEvents writes more messages at once than are sent at once.
func TestManyEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var messages []schemas.Message
		var want []string
		for seq := range int64(3000) {
			m := schemas.Message{Seq: seq + 1, Time: time.Now(), Stream: schemas.Stdout, Line: []byte(strings.Repeat("x", int(seq%300)))}
			messages, want = append(messages, m), append(want, string(schemas.Document.AppendMessage(nil, &m)))
		}
		last := verdict(3001, 0)
		c := serve(t, writing(t, last, messages)).dial(schemas.EventsProtocol)
		c.send(job())
		c.finish().check(t, websocket.CloseNormalClosure, append(want, string(schemas.Document.AppendMessage(nil, &last)))...)
	})
}

// TestEventsWithoutLog runs jobs whose log is broken, so that their last message has no number. The session numbers it, and
// sends a first message before it.
func TestEventsWithoutLog(t *testing.T) {
	for name, logged := range map[string]int{"from the start": 0, "later": 4} {
		bubble(t, name, func(t *testing.T) {
			messages := jobMessages()[:max(1, logged)]
			last := verdict(0, 1)
			c := serve(t, writing(t, last, messages[:logged])).dial(schemas.EventsProtocol)
			c.send(job())
			var want []string
			last.Seq = int64(len(messages) + 1)
			for _, m := range append(messages, last) {
				want = append(want, string(schemas.Document.AppendMessage(nil, &m)))
			}
			c.finish().check(t, websocket.CloseInternalServerErr, want...)
		})
	}
}

// TestPlainClient offers no subprotocol, or another one: it gets lines and no messages.
func TestPlainClient(t *testing.T) {
	for _, protocols := range [][]string{nil, {"chat"}, {"bearer"}} {
		bubble(t, fmt.Sprint(protocols), func(t *testing.T) {
			b := newHeldBuilder()
			c := serve(t, b).dial(protocols...)
			c.send(job())
			if _, ok := (<-b.begun).(schemas.MessageWriter); ok {
				t.Error("the job writes it messages")
			}
			b.exit <- 0
			c.finish().check(t, websocket.CloseNormalClosure, accepted, succeeded)
		})
	}
}

// TestRefusalsOfEvents checks that clients of events get the same refusals as others.
func TestRefusalsOfEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHeldBuilder()
		f := serve(t, b)
		c := f.dial(schemas.EventsProtocol)
		f.dial(schemas.EventsProtocol).finish().check(t, websocket.CloseInternalServerErr, busy)
		c.send(job())
		<-b.begun
		c.send("{}")
		if got := c.next(); got != busy {
			t.Errorf("a second job gets %s", got)
		}
		b.exit <- 0
		c.finish()
		malformed := f.dial(schemas.EventsProtocol)
		malformed.send("{")
		malformed.finish().check(t, websocket.CloseInvalidFramePayloadData, notJSON("line 1, column 2: unexpected end of JSON input"))
		f.wantRefused("busy", "malformed")
	})
}

// TestEventsToNobody runs a job that writes messages to a client that has disconnected: the write fails.
func TestEventsToNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := make(chan error, 1)
		many := func() (messages []schemas.Message) {
			for seq := range int64(2000) {
				messages = append(messages, schemas.Message{Seq: seq + 1, Stream: schemas.Stdout, Line: []byte(strings.Repeat("x", 1000))})
			}
			return messages
		}
		f := serve(t, &fakeBuilder{build: func(ctx context.Context, _ *schemas.Request, out io.Writer) schemas.Message {
			<-ctx.Done()
			failed <- out.(schemas.MessageWriter).WriteMessages(many())
			failed <- out.(schemas.MessageWriter).WriteMessages(many()[:1])
			return verdict(2, 1)
		}})
		c := f.dial(schemas.EventsProtocol)
		c.send(job())
		c.Close()
		for range cap(failed) + 1 {
			if err := <-failed; !errors.Is(err, jobend.ClientGone) {
				t.Errorf("the write ends with %v", err)
			}
		}
		wantFree(t, f)
	})
}

// A writesConn has the length of each write to it.
type writesConn struct {
	net.Conn
	lengths []int
}

func (c *writesConn) Write(b []byte) (int, error) {
	c.lengths = append(c.lengths, len(b))
	return len(b), nil
}

func (c *writesConn) SetWriteDeadline(time.Time) error { return nil }
func (c *writesConn) Close() error                     { return nil }

// TestMessagesAreGathered has a job print much at once, for a client with events and for one without. Its messages are
// written together, but not more than 256 KiB and one message at once, so that the memory is limited.
func TestMessagesAreGathered(t *testing.T) {
	const count, length = 2000, 1000
	text := strings.Repeat("x", length)
	for name, write := range map[string]func(*sender){
		"with events": func(s *sender) {
			messages := make([]schemas.Message, count)
			for i := range messages {
				messages[i] = schemas.Message{Seq: int64(i) + 1, Stream: schemas.Stdout, Line: []byte(text)}
			}
			(&messageWriter{lineWriter: newLineWriter(s)}).WriteMessages(messages)
		},
		"without": func(s *sender) { newLineWriter(s).Write([]byte(strings.Repeat(text+"\n", count))) },
	} {
		conn := &writesConn{}
		write(newSender(conn, time.Minute))
		total := 0
		for i, n := range conn.lengths {
			total += n
			if last := i == len(conn.lengths)-1; n < 256<<10 && !last || n > 256<<10+2*length {
				t.Errorf("%s: write %d of %d has %d bytes", name, i+1, len(conn.lengths), n)
			}
		}
		if total < count*length {
			t.Errorf("%s: %d bytes are written, want %d messages of more than %d", name, total, count, length)
		}
	}
}

// TestNoPongAfterTheEnd sends pings before and after the last frames. No frame may follow the close frame (RFC 6455,
// section 5.5.1).
func TestNoPongAfterTheEnd(t *testing.T) {
	conn := &writesConn{}
	s := newSender(conn, time.Minute)
	for _, ending := range []bool{false, true} {
		s.ending.Store(ending)
		if err := s.receivePing("ping"); err != nil || len(conn.lengths) != 1 {
			t.Errorf("ending %t: %d frames are written, want one in all; error %v", ending, len(conn.lengths), err)
		}
	}
}

// TestCloseDuringWrite receives a client's close frame while something is written. It is answered after that, once.
func TestCloseDuringWrite(t *testing.T) {
	conn := &writesConn{}
	s := newSender(conn, time.Minute)
	s.writing.take()
	s.receiveClose(1000)
	if len(conn.lengths) != 0 {
		t.Error("it is answered during the write")
	}
	s.unlock()
	s.writing.take()
	s.unlock()
	if len(conn.lengths) != 1 || !s.ending.Load() {
		t.Errorf("%d frames are written, want one close frame", len(conn.lengths))
	}
}
