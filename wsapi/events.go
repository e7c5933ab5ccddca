package wsapi

import (
	"context"
	"fmt"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/schemas"
)

// This file sends a job's numbered messages to a client of events (schemas.EventsProtocol).

// runWithEvents runs a job, sends its messages to the client, and returns the last one.
func (s *session) runWithEvents(ctx context.Context, request *schemas.Request) schemas.Response {
	w := &messageWriter{lineWriter: newLineWriter(s.out)}
	last := s.follow(ctx, request, w)
	if last.Seq == 0 { // the job's log is broken, or it has none
		w.addAccepted()
		last.Seq = w.seq + 1
	}
	s.last = &last
	return *last.Response
}

// messageWriter sends each message that is written to it, except the job's last: the session sends that one
// when the slot is free again. It is for one goroutine.
type messageWriter struct {
	*lineWriter
	seq int64 // the number of the latest message
}

var _ schemas.MessageWriter = (*messageWriter)(nil)

// WriteMessages sends messages.
func (w *messageWriter) WriteMessages(messages []schemas.Message) error {
	w.frames = w.frames[:0]
	for i := range messages {
		if messages[i].Last() {
			break
		}
		w.seq = messages[i].Seq
		if w.frames = w.out.messageFrame(w.frames, &messages[i]); len(w.frames) >= flushSize {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return w.flush()
}

// addAccepted sends the first message, if it was not sent before.
func (w *messageWriter) addAccepted() {
	if w.seq == 0 {
		accepted := schemas.Accepted()
		w.WriteMessages([]schemas.Message{{Seq: 1, Time: time.Now(), Response: &accepted}})
	}
}

func (w *messageWriter) flush() error {
	if len(w.frames) == 0 {
		return nil
	}
	err := w.out.write(w.frames)
	w.frames = w.frames[:0]
	if err != nil {
		return fmt.Errorf("%w: %w", jobend.ClientGone, err)
	}
	return nil
}
