package wsapi

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/schemas"
)

// closeTimeout is how long the server waits for the client to close its side of the connection. Without the
// wait, data that the client still sends would reset the connection, and the last message could be lost.
const closeTimeout = 2 * time.Second

// A session serves one client's connection: it receives a job, runs it and closes the connection. The goroutine
// of the HTTP request serves it. While a job runs, this goroutine sends the log, a second one reads from the
// connection, and a third one checks whether the client is still connected.
type session struct {
	server *Server
	conn   *websocket.Conn
	out    *sender // writes to conn
	log    *slog.Logger
	last   *schemas.Message // the job's last message, for a client of events; nil before the job's end

	answered     func() // called when the client has been sent its last message: see Server.takeTurn
	release      func() // gives back the slot of the job
	stopWatching func() // ends watch

	reading chan struct{} // closed when the goroutine that reads has ended; nil if there is none
	broken  bool          // the library cannot read from the connection any more

	mu      sync.Mutex // held while the read deadline is set
	closing bool       // everything is sent, and the client is expected to close its side; guarded by mu
}

// newSession returns the session of a client that has just connected. The session calls answered after the last
// message.
func newSession(server *Server, conn *websocket.Conn, log *slog.Logger, answered func()) *session {
	out := newSender(conn.NetConn(), server.options.ClientTimeout)
	// Otherwise the library would write answers itself; see sender.go.
	conn.SetPingHandler(out.receivePing)
	conn.SetCloseHandler(func(int, string) error { return nil })
	return &session{server: server, conn: conn, out: out, log: log, answered: answered, stopWatching: func() {}}
}

// serve receives one job from the client and runs it. The caller has acquired a slot. release is called when the
// job has ended: a client that reads its log slowly does not keep the slot. It may be called more than once. The slot is
// free when the client gets its last message.
func (s *session) serve(release func()) {
	s.release = release
	defer func() { s.stopWatching() }() // a closure, because work sets it
	response, code := s.work()
	release()
	s.end(response, code)
}

// shuttingDown is the answer to a client whose job is refused because the builder is shutting down.
var shuttingDown = schemas.Unable("The builder is shutting down.", "Connect again when it is back.")

// nothing means that there is no last message: the close code is enough, or the client is disconnected.
var nothing schemas.Response

// work returns the last message for the client and the close code after it.
func (s *session) work() (schemas.Response, int) {
	data, err := s.receive()
	if err != nil {
		s.broken = !errors.Is(err, errTooLarge)
		return s.notReceived(err)
	}
	request, format, err := schemas.ParseRequest(data, s.server.options.Commands)
	s.out.format = format // no other goroutine sends before the job is accepted
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

// run runs a job, sends its lines to the client, and returns the last message.
func (s *session) run(ctx context.Context, request *schemas.Request) schemas.Response {
	if err := s.out.send(schemas.Accepted()); err != nil {
		return nothing
	}
	return *s.follow(ctx, request, newLineWriter(s.out)).Response
}

// follow runs a job, writes its lines or messages to out, and returns the last message. It cancels the job when
// the client disconnects, or out fails.
func (s *session) follow(ctx context.Context, request *schemas.Request, out io.Writer) schemas.Message {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	job := s.server.builder.Start(ctx, request, s.conn.RemoteAddr().String(), s.release)
	// It ends with the job's log, not with ctx: the client gets the last lines, too.
	if err := job.Follow(context.WithoutCancel(ctx), out); err != nil {
		cancel(err)
	}
	return job.Wait()
}

var errTooLarge = errors.New("the message is too large")

// receive returns the client's first message. It returns no bytes for a message that is not text; they are
// refused like any other malformed job.
func (s *session) receive() ([]byte, error) {
	deadline := time.Now().Add(s.server.options.RequestTimeout)
	// Also as a write deadline, for answers to the pings of a client that reads nothing.
	s.out.jobDeadline = deadline
	defer func() { s.out.jobDeadline = time.Time{} }()
	s.conn.SetReadDeadline(deadline)
	defer s.conn.SetReadDeadline(time.Time{})
	// A server that accepts no more jobs does not wait for that deadline.
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

// notReceived returns the last message and the close code for a client that has sent no job.
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
		return s.server.noJobInTime(), websocket.ClosePolicyViolation
	default: // the client has disconnected
		return nothing, websocket.CloseNormalClosure
	}
}

// noJobInTime is the answer to a client that does not send its job in time.
func (s *Server) noJobInTime() schemas.Response {
	return schemas.Unable("No job was received within "+s.options.RequestTimeout.String()+".", "Connect again and send it at once.")
}

// refused logs and counts the reason for which a client's job is refused.
func (s *session) refused(reason string) {
	s.log.Info("client refused", "reason", reason)
	s.server.refused(reason)
}

// readOn reads what the client sends while its job runs, and answers each further job with busy. It returns when
// the connection ends, or the client sends nothing for silenceTimeout, not even a ping or an answer to one. The result
// is jobend.Cancelled if the client has closed the connection properly, and otherwise jobend.ClientGone.
func (s *session) readOn() jobend.End {
	s.conn.SetPongHandler(func(string) error { s.heard(); return nil })
	s.conn.SetPingHandler(func(data string) error { s.heard(); return s.out.receivePing(data) })
	for {
		s.heard()
		_, _, err := s.conn.NextReader()
		// The library returns CloseAbnormalClosure if no close frame came.
		if bye, ok := errors.AsType[*websocket.CloseError](err); ok && bye.Code != websocket.CloseAbnormalClosure {
			s.out.receiveClose(bye.Code)
			return jobend.Cancelled
		}
		// Without an error, the client has sent a second job.
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
	if s.reading == nil { // no wait for a client that has had no job
		s.out.setCloseDeadline(closeTimeout)
	}
	err := s.out.writeLast(frames)
	s.answered()
	if err == nil {
		if s.reading != nil { // a client without a job gets only this one message
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

// expectClose sets the last read deadline, which what the client sends no longer extends.
func (s *session) expectClose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	s.conn.SetReadDeadline(time.Now().Add(closeTimeout))
}

// awaitClose reads until the client has closed its side of the connection.
func (s *session) awaitClose() {
	s.expectClose()
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
