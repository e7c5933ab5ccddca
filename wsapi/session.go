package wsapi

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/origin"
	"iglu.sh/builder/schemas"
)

// closeTimeout bounds the wait for a client's answer to the closing of the connection.
// Without the wait, what the client still sends would reset the connection, and the
// last message could be lost on its way.
const closeTimeout = 2 * time.Second

// A session serves one client's connection: it receives a job, runs it and ends. The goroutine
// of the HTTP request serves it; while a job runs, a second one reads from the connection, a
// third looks after it, and the first sends the log.
type session struct {
	server *Server
	conn   *websocket.Conn
	out    *sender // writes to conn
	log    *slog.Logger
	last   *schemas.Message // of the job, for a client of events; nil before it

	answered     func() // lets the next client have its turn
	stopWatching func() // ends what looks after a client that has a job

	reading chan struct{} // closed when the goroutine that reads has ended; nil without it
	broken  bool          // the library cannot read from the connection any more
	closing atomic.Bool   // the client has all that it was sent, and is to close its side
}

// newSession returns the session of a client that has just connected.
// The session calls answered when the client has its last message, if nobody has before.
func newSession(server *Server, conn *websocket.Conn, log *slog.Logger, answered func()) *session {
	out := &sender{conn: conn.NetConn(), timeout: server.options.ClientTimeout}
	// The library would write answers itself; see sender.go.
	conn.SetPingHandler(out.receivePing)
	conn.SetCloseHandler(func(int, string) error { return nil })
	return &session{server: server, conn: conn, out: out, log: log, answered: answered, stopWatching: func() {}}
}

// serve receives one job from the client and runs it. The caller has acquired a slot. serve
// releases it when the job has ended, before it sends the last message: a client that has
// read its last message finds the slot free.
func (s *session) serve(release func()) {
	defer func() { s.stopWatching() }() // which work sets
	response, code := s.work()
	release()
	s.end(response, code)
}

// shuttingDown is what a client is told whose job is not taken any more.
var shuttingDown = schemas.Unable("The builder is shutting down.", "Connect again when it is back.")

// nothing stands for no last message: the close code says all, or nobody is there.
var nothing schemas.Response

// work returns the last message for the client and the close code after it.
func (s *session) work() (schemas.Response, int) {
	data, err := s.receive()
	if err != nil {
		s.broken = !errors.Is(err, errTooLarge)
		return s.notReceived(err)
	}
	request, form, err := schemas.ParseRequest(data, s.server.options.Commands)
	s.out.form = form // nobody else sends before the job is accepted
	if refusal, ok := errors.AsType[*schemas.Refusal](err); ok {
		s.log.Info("client refused", "reason", refusal.Kind(), "err", refusal)
		s.server.refused(refusal.Kind())
		return refusal.Response(), websocket.CloseInvalidFramePayloadData
	}

	ctx, cancel := context.WithCancelCause(s.server.closing)
	defer cancel(nil)
	s.reading = make(chan struct{})
	go func() {
		defer close(s.reading)
		cancel(s.readOn())
		s.out.setCloseDeadline(0)
	}()
	s.stopWatching = s.watch()
	run := s.run
	if s.conn.Subprotocol() == schemas.EventsProtocol {
		run = s.runWithEvents
	}
	response := run(ctx, request)
	if response == nothing || response.JobStatus == schemas.Success {
		return response, websocket.CloseNormalClosure
	}
	return response, websocket.CloseInternalServerErr
}

// run runs a job while the client gets its lines, and returns the last message.
func (s *session) run(ctx context.Context, request *schemas.Request) schemas.Response {
	if err := s.out.send(schemas.Accepted()); err != nil {
		return nothing
	}
	return *s.follow(ctx, request, newLineWriter(s.out)).Response
}

// follow runs a job while out gets its lines or messages, and returns the last message. When the
// client leaves, or cannot be written to, the job is cancelled.
func (s *session) follow(ctx context.Context, request *schemas.Request, out io.Writer) schemas.Message {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	job := s.server.builder.Start(origin.WithClient(ctx, s.conn.RemoteAddr().String()), request)
	// It ends with the job's log, not with ctx: the last lines count, too.
	if err := job.Follow(context.WithoutCancel(ctx), out); err != nil {
		cancel(err)
	}
	return job.Wait()
}

var errTooLarge = errors.New("the message is too large")

// receive returns the client's first message. One that is no text is returned as
// no bytes, which is no job either.
func (s *session) receive() ([]byte, error) {
	deadline := time.Now().Add(s.server.options.RequestTimeout)
	// It is a write deadline, too: for answers to the pings of a client that reads nothing.
	s.out.jobDeadline = deadline
	defer func() { s.out.jobDeadline = time.Time{} }()
	s.conn.SetReadDeadline(deadline)
	defer s.conn.SetReadDeadline(time.Time{})
	// A server that takes no more jobs does not wait for that deadline.
	shortened := make(chan struct{})
	stop := context.AfterFunc(s.server.draining, func() {
		defer close(shortened)
		s.conn.SetReadDeadline(time.Now())
	})
	defer func() {
		if !stop() {
			<-shortened
		}
	}()
	kind, message, err := s.conn.NextReader()
	if err != nil {
		return nil, err
	}
	// The library's own limit would close the connection before the slot is free again.
	limit := s.server.options.MaxRequestBytes
	data, err := io.ReadAll(io.LimitReader(message, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(data)) > limit:
		return nil, errTooLarge
	case kind != websocket.TextMessage:
		return nil, nil
	}
	return data, nil
}

// notReceived says what a client is told that has sent no job.
func (s *session) notReceived(err error) (schemas.Response, int) {
	network, ok := errors.AsType[net.Error](err)
	switch timedOut := ok && network.Timeout(); {
	case errors.Is(err, errTooLarge):
		s.refused(refusedLarge)
		return nothing, websocket.CloseMessageTooBig
	case timedOut && s.server.draining.Err() != nil:
		s.refused(refusedDraining)
		return shuttingDown, websocket.CloseInternalServerErr
	case timedOut:
		s.refused(refusedSilent)
		return schemas.Unable("No job was received within "+s.server.options.RequestTimeout.String()+".",
			"Connect again and send it at once."), websocket.ClosePolicyViolation
	default: // it has left
		return nothing, websocket.CloseNormalClosure
	}
}

// refused says and counts why a client has no job.
func (s *session) refused(reason string) {
	s.log.Info("client refused", "reason", reason)
	s.server.refused(reason)
}

// readOn answers whatever else the client sends, until the connection ends or the client
// gives no sign of life in time: anything it sends, an answer to a ping included. It returns
// which of both it was that ended the job: a goodbye or not.
func (s *session) readOn() jobend.End {
	s.conn.SetPongHandler(func(string) error { s.heard(); return nil })
	for {
		s.heard()
		_, _, err := s.conn.NextReader()
		if websocket.IsUnexpectedCloseError(err, websocket.CloseAbnormalClosure) {
			return jobend.Cancelled // the library's word for no goodbye is the one excepted
		}
		// Otherwise it has sent a second job.
		if err != nil || s.out.sendUnlessEnding(schemas.Busy()) != nil {
			return jobend.ClientGone
		}
	}
}

// end sends the last message, if there is one, and closes the connection.
func (s *session) end(response schemas.Response, code int) {
	defer s.close()
	var frames []byte
	if s.last != nil {
		frames = s.out.messageFrame(nil, s.last)
	} else if response != nothing {
		frames = s.out.textFrame(response)
	}
	frames = append(frames, controlFrame(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""))...)
	if s.reading == nil { // who has had no job need not be waited for
		s.out.setCloseDeadline(closeTimeout)
	}
	err := s.out.writeLast(frames)
	s.answered()
	if err == nil {
		if s.reading != nil { // who had no job has but this one message to take
			s.awaitTaken()
		}
		s.awaitClose()
	}
}

// close closes the connection, which ends the goroutine that reads from it.
func (s *session) close() {
	s.conn.Close()
	if s.reading != nil {
		<-s.reading
	}
}

// awaitClose reads until the client has closed its side, too.
func (s *session) awaitClose() {
	s.closing.Store(true)
	s.conn.SetReadDeadline(time.Now().Add(closeTimeout))
	switch {
	case s.reading != nil:
		<-s.reading
	case s.broken:
		io.Copy(io.Discard, s.conn.NetConn())
	default:
		for {
			if _, _, err := s.conn.NextReader(); err != nil {
				return
			}
		}
	}
}
