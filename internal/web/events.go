package web

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/tick"
	"iglu.sh/builder/schemas"
)

const (
	// heartbeat is the longest time without data for a watcher. Otherwise a proxy could close the connection.
	heartbeat = 15 * time.Second
	// gatherTime is how long messages are collected for a watcher that has all earlier ones.
	gatherTime = 100 * time.Millisecond
	// growthInterval is how often a watcher without lines gets the number of lines.
	growthInterval = 100 * time.Millisecond
)

// serveEvents serves a job's messages as server-sent events, until the last is sent. If a client requests more
// after that, the status 204 makes it stop.
func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	from, ok := number(w, r, "from", 1, math.MaxInt64)
	if !ok {
		return
	}
	if latest, err := strconv.ParseInt(r.Header.Get("Last-Event-ID"), 10, 64); err == nil && latest > 0 && latest < math.MaxInt64 {
		from = latest + 1
	}
	log := s.reader(w, r)
	if log == nil {
		return
	}
	defer log.Close()
	if state := log.State(); state.Ended && from > state.Messages {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	ctx, out, left, ok := s.watchers.watch(w, r)
	if !ok {
		return
	}
	defer left()
	w.Header().Set("Content-Type", "text/event-stream")
	f := &feed{out: out, log: log, withoutLines: r.URL.Query().Get("lines") == "no"}
	f.serve(ctx, from)
}

// A feed is the stream of events for one watcher.
type feed struct {
	log          *joblog.Reader
	withoutLines bool

	mu    sync.Mutex
	out   *watcher
	sent  time.Time
	lines int64 // that the watcher has got or knows about
	buf   []byte
}

// serve sends the messages from number from on. It returns when the job has ended and everything is sent, or
// when the watcher has disconnected.
func (f *feed) serve(ctx context.Context, from int64) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer tick.Every(growthInterval, func() {
		if f.keepInTouch() != nil {
			cancel()
		}
	})()
	if f.send(nil) == nil { // the header, before there is a message
		follow := f.log.FollowMessages
		if f.withoutLines {
			follow = f.log.FollowEvents
		}
		hasLast := false
		follow(ctx, from, func(messages []schemas.Message) error {
			hasLast = messages[len(messages)-1].Last()
			err := f.send(messages)
			if !f.withoutLines { // FollowEvents gathers by itself
				f.gather(ctx, messages)
			}
			return err
		}) // an error means that the watcher has disconnected or that the log ends here
		if !hasLast && ctx.Err() == nil {
			f.sendEnd()
		}
	}
}

// sendEnd reports the end of a job that has no last message, because its builder died or its log could not be
// kept.
func (f *feed) sendEnd() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.write(append(f.appendGrowth(f.buf[:0]), "event: end\ndata: {}\n\n"...))
}

// gather waits for more messages if the watcher has all earlier ones, so that many watchers need little CPU
// time, which the job needs.
func (f *feed) gather(ctx context.Context, messages []schemas.Message) {
	last := &messages[len(messages)-1]
	if state := f.log.State(); state.Ended || last.Last() || last.Seq < state.Messages {
		return
	}
	select {
	case <-time.After(gatherTime):
	case <-ctx.Done():
	}
}

// The beginnings of events that are lines of derivations, of those that are phases, and of progress.
var (
	lineEvent     = []byte(`{"type":"line",`)
	phaseEvent    = []byte(`{"type":"phase",`)
	progressEvent = []byte(`{"type":"progress",`)
)

// lastProgress returns the index of the last message that is progress, or -1.
func lastProgress(messages []schemas.Message) int {
	i := len(messages) - 1
	for i >= 0 && !bytes.HasPrefix(messages[i].Event, progressEvent) {
		i--
	}
	return i
}

// send sends messages.
func (f *feed) send(messages []schemas.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buf = f.buf[:0]
	latest := lastProgress(messages)
	for i := range messages {
		event := messages[i].Event
		if f.withoutLines && (bytes.HasPrefix(event, lineEvent) || i < latest && bytes.HasPrefix(event, progressEvent)) {
			continue
		}
		if messages[i].Last() {
			f.buf = f.appendGrowth(f.buf) // the watcher needs the number of lines now
		}
		if f.withoutLines && bytes.HasPrefix(event, phaseEvent) {
			f.buf = f.appendPhase(f.buf, &messages[i])
		}
		f.buf = append(f.buf, "id: "...)
		f.buf = strconv.AppendInt(f.buf, messages[i].Seq, 10)
		f.buf = append(f.buf, "\ndata: "...)
		f.buf = schemas.Document.AppendMessage(f.buf, &messages[i])
		f.buf = append(f.buf, "\n\n"...)
	}
	if len(f.buf) == 0 && len(messages) > 0 {
		return nil // only lines, which the watcher does not get: its next heartbeat is due as before
	}
	return f.write(f.buf)
}

// keepInTouch sends heartbeats and the number of lines when they are due.
func (f *feed) keepInTouch() error {
	if !f.mu.TryLock() {
		return nil // something is being sent
	}
	defer f.mu.Unlock()
	f.buf = f.appendGrowth(f.buf[:0])
	if time.Since(f.sent) > heartbeat {
		f.buf = append(f.buf, ":\n\n"...)
	}
	if len(f.buf) == 0 {
		return nil
	}
	return f.write(f.buf)
}

// appendGrowth appends the number of lines of the log, for a watcher without lines.
func (f *feed) appendGrowth(dst []byte) []byte {
	lines := f.log.State().Lines
	if !f.withoutLines || lines == f.lines {
		return dst
	}
	f.lines = lines
	return fmt.Appendf(dst, "event: log\ndata: {\"lines\":%d}\n\n", lines)
}

// appendPhase appends the number of the first line of a phase, for a watcher without lines, which cannot count
// them.
func (f *feed) appendPhase(dst []byte, m *schemas.Message) []byte {
	event, err := schemas.ParseEvent(m.Event)
	phase, ok := event.(schemas.PhaseEvent)
	line, err2 := f.log.LinesBefore(m.Seq)
	if err != nil || err2 != nil || !ok {
		return dst
	}
	return fmt.Appendf(dst, "event: phase\ndata: {\"phase\":%q,\"line\":%d}\n\n", phase.Phase, line)
}

func (f *feed) write(p []byte) error {
	f.sent = time.Now()
	_, err := f.out.Write(p)
	return err
}
