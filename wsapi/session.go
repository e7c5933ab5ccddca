package wsapi

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/schemas"
)

// closeTimeout bounds the wait for a client's answer to the closing of the connection.
// Without the wait, what the client still sends would reset the connection, and the
// last message could be lost on its way.
const closeTimeout = 2 * time.Second

const (
	// closingTimeout is how long a client may take to accept the rest of its log when
	// the server closes.
	closingTimeout = 5 * time.Second
	// behindTimeout is how long one write may take then without the client counting as
	// behind, and behindInterval how often that is looked at.
	behindTimeout  = time.Second
	behindInterval = 20 * time.Millisecond
	// endingTimeout is how long its job may take to end then, and has more to say.
	endingTimeout = 15 * time.Second
)

// A session is the connection of one client. The goroutine of its HTTP request
// serves it; while a job runs, a second one reads from it, a third looks after it, and
// the builder's own sends the log.
type session struct {
	server *Server
	conn   *websocket.Conn
	log    *slog.Logger
	form   schemas.Form     // of the messages: that of the job, once there is one
	last   *schemas.Message // of the job, for a client of events; nil before it

	answered     func() // lets the next client have its turn
	stopWatching func() // ends what looks after a client that has a job

	writing sync.Mutex
	reading chan struct{} // closed when the goroutine that reads has ended; nil without it
	broken  bool          // the library cannot read from the connection any more
	ending  atomic.Bool   // the client is told, or has been, that this is the end
	closing atomic.Bool   // it has all that it was sent, and is to close its side
	latest  atomic.Int64  // when the last write must end, in Unix nanoseconds; 0: no hurry
	jobBy   time.Time     // when a job must have come; zero when it has

	ping atomic.Pointer[string] // the client's latest, not answered yet
}

// newSession returns the session of a client that has just connected.
// answered is called when it has got its place for a job, or been told that it gets none.
func newSession(server *Server, conn *websocket.Conn, log *slog.Logger, answered func()) *session {
	s := &session{server: server, conn: conn, log: log, answered: answered, stopWatching: func() {}}
	// The library would write answers itself; see frames.go.
	conn.SetPingHandler(func(data string) error {
		s.ping.Store(&data)
		s.answerPing()
		return nil
	})
	conn.SetCloseHandler(func(int, string) error { return nil })
	return s
}

// serve takes one job from the client and runs it. It holds the server's place for
// a client, and gives it back when the job has ended and before the client is told,
// so that a client that has read its last message finds the place free.
func (s *session) serve() {
	defer func() { s.stopWatching() }() // which work sets
	response, code := s.work()
	<-s.server.place
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
	s.form = form // nobody else sends before the job is accepted
	if refusal, ok := errors.AsType[*schemas.Refusal](err); ok {
		s.log.Info("job refused", "reason", refusal)
		s.server.refused(refusal.Kind())
		return refusal.Response(), websocket.CloseInvalidFramePayloadData
	}

	ctx, cancel := context.WithCancelCause(s.server.closing)
	defer cancel(nil)
	s.reading = make(chan struct{})
	go func() {
		defer close(s.reading)
		cancel(s.readOn())
		s.hurry(0)
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
	if err := s.send(schemas.Accepted()); err != nil {
		return nothing
	}
	return *s.server.builder.Build(ctx, request, newLineWriter(s)).Response
}

var errTooLarge = errors.New("the message is too large")

// receive returns the client's first message. One that is no text is returned as
// no bytes, which is no job either.
func (s *session) receive() ([]byte, error) {
	// That bounds also what is written meanwhile: answers to the pings of a client that reads nothing.
	s.jobBy = time.Now().Add(s.server.options.RequestTimeout)
	defer func() { s.jobBy = time.Time{} }()
	s.conn.SetReadDeadline(s.jobBy)
	defer s.conn.SetReadDeadline(time.Time{})
	// A server that takes no more jobs does not wait for that deadline.
	hurried := make(chan struct{})
	stop := context.AfterFunc(s.server.draining, func() {
		defer close(hurried)
		s.conn.SetReadDeadline(time.Now())
	})
	defer func() {
		if !stop() {
			<-hurried
		}
	}()
	kind, message, err := s.conn.NextReader()
	if err != nil {
		return nil, err
	}
	// The library's own limit would close the connection before the place for a
	// client is free again.
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
		s.server.refused(refusedLarge)
		return nothing, websocket.CloseMessageTooBig
	case timedOut && s.server.draining.Err() != nil:
		s.server.refused(refusedDraining)
		return shuttingDown, websocket.CloseInternalServerErr
	case timedOut:
		s.server.refused(refusedSilent)
		return schemas.Unable("No job was received within "+s.server.options.RequestTimeout.String()+".",
			"Connect again and send it at once."), websocket.ClosePolicyViolation
	default: // it has left
		return nothing, websocket.CloseNormalClosure
	}
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
		if err != nil || s.sendBusy() != nil {
			return jobend.ClientGone
		}
	}
}

// sendBusy answers a second job, but nothing after the last message.
func (s *session) sendBusy() error {
	s.writing.Lock()
	defer s.unlock()
	if s.ending.Load() {
		return nil
	}
	return s.writeLocked(s.textFrame(schemas.Busy()))
}

// end sends the last message, if there is one, and closes the connection.
func (s *session) end(response schemas.Response, code int) {
	defer s.close()
	var frames []byte
	if s.last != nil {
		frames = s.messageFrame(nil, s.last)
	} else if response != nothing {
		frames = s.textFrame(response)
	}
	frames = append(frames, controlFrame(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""))...)
	s.ending.Store(true)
	if s.reading == nil { // who has had no job need not be waited for
		s.hurry(closeTimeout)
	}
	err := s.write(frames)
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
