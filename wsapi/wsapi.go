// Package wsapi is the builder's HTTP server. Its main part is the WebSocket endpoint, which receives a job and
// sends its log. A job can also be posted; it then does not depend on a connection (submit.go). The package has
// the health checks, and passes requests for the page and the metrics on to other handlers.
//
// A client that connects gets a slot for a job, or a place in the queue for one. Its connection is a session
// (session.go). If the queue is full, the client gets the answer that the builder is busy, and its connection is
// closed.
//
// Package auth decides which requests are served. Package connlimit limits how many connections are open.
package wsapi

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/wsapi/auth"
	"iglu.sh/builder/wsapi/connlimit"
)

// Builder runs the jobs.
type Builder interface {
	// Acquire acquires a slot for a job, or a place in the queue for one. ok is false if the queue is
	// full. release gives the slot or place back, and may be called more than once.
	Acquire() (release func(), ok bool)
	// Start starts a job. client is the address of the client that has sent it. The job is cancelled when
	// ctx ends. The caller must have called Acquire, which has returned release. Start calls release when the
	// job has ended, even if its log is still being read.
	Start(ctx context.Context, request *schemas.Request, client string, release func()) Job
	// Submit starts a job that does not depend on a connection, and returns its id. Otherwise it returns
	// the answer to the client: the builder is busy, or the reason why the job could not be started.
	Submit(request *schemas.Request, client string) (id string, refusal *schemas.Response)
	// Healthy returns nil while the container engine answers.
	Healthy(ctx context.Context) error
	// Ready returns nil while a job could run. Otherwise the error says why not, in sentences for people.
	Ready(ctx context.Context) error
}

// A Job is a job that a Builder has started.
type Job interface {
	// Follow writes the job's lines to out as they appear. Each write has whole lines, each with a line
	// feed. If out is a schemas.MessageWriter, Follow writes all messages instead. It returns when the job
	// has ended and everything is written, or out fails, or ctx ends.
	Follow(ctx context.Context, out io.Writer) error
	// Wait waits until the job has ended, and returns the last message for its client. The message has the
	// number 0 if the job's log could not count it. Wait is called once, after Follow.
	Wait() schemas.Message
}

// Options are the settings of a Server.
type Options struct {
	// Commands are the programs that a job may run.
	Commands []string
	// RequestTimeout is how long a client may take to send its job.
	RequestTimeout time.Duration
	// MaxRequestBytes is the largest size of a job in bytes.
	MaxRequestBytes int64
	// Auth are the settings of the checks that a request must pass.
	Auth auth.Options
	// ClientTimeout is how long a client may accept no data before it counts as disconnected.
	ClientTimeout time.Duration
	// Metrics serves the builder's metrics. It may be nil: then there are none.
	Metrics http.Handler
	// Refused is called each time that a client's job is refused, with one of Refusals. It may be nil.
	Refused func(reason string)
	// Page serves every path that the Server does not serve itself, to clients that have the token.
	Page http.Handler
}

// A Server serves the builder's HTTP endpoints. It is an http.Handler.
type Server struct {
	builder  Builder
	options  Options
	log      *slog.Logger
	auth     *auth.Guard
	mux      *http.ServeMux
	upgrader websocket.Upgrader
	tcpInfo  func(net.Conn) (tcpState, bool) // asks the kernel; false if the state is not available

	healthy, ready sharedCheck

	answering chan struct{} // holds an item for each client that is being answered
	parsing   chan struct{} // holds an item for each posted job that is being parsed
	sessions  sync.WaitGroup

	draining context.Context // ends when the server accepts no more jobs
	drain    context.CancelFunc
	closing  context.Context // ends when the server closes
	close    context.CancelCauseFunc
}

// handshakeTimeout bounds how long a client may take to accept the answer to its
// request for a WebSocket.
const handshakeTimeout = 10 * time.Second

// NewServer returns a server that runs jobs with builder.
func NewServer(builder Builder, options Options, log *slog.Logger) *Server {
	s := &Server{
		builder: builder,
		options: options,
		log:     log,
		auth:    auth.New(options.Auth, log),
		mux:     http.NewServeMux(),
		upgrader: websocket.Upgrader{
			HandshakeTimeout: handshakeTimeout,
			Subprotocols:     []string{schemas.EventsProtocol, auth.Bearer}, // in order of preference
			CheckOrigin:      func(*http.Request) bool { return true },      // s.auth has checked it
		},
		tcpInfo:   tcpInfo,
		healthy:   sharedCheck{ask: func(ctx context.Context) error { return builder.Healthy(ctx) }},
		ready:     sharedCheck{ask: func(ctx context.Context) error { return builder.Ready(ctx) }},
		answering: make(chan struct{}, maxAnswers),
		parsing:   make(chan struct{}, maxParses),
	}
	s.closing, s.close = context.WithCancelCause(context.Background())
	s.draining, s.drain = context.WithCancel(s.closing)
	s.mux.HandleFunc("/api/v1/healthcheck", s.serveHealthcheck)
	s.mux.HandleFunc("/livez", s.serveLive)
	s.mux.HandleFunc("/readyz", s.serveReady)
	s.mux.HandleFunc(schemas.BuildPath, s.auth.KnownHost(s.serveBuild))
	s.mux.HandleFunc("POST "+schemas.JobsPath, s.auth.KnownHost(idleInBody(s.serveSubmit)))
	s.mux.HandleFunc("/metrics", s.auth.KnownHost(s.serveMetrics))
	s.mux.HandleFunc("POST /login", s.auth.KnownHost(idleInBody(s.auth.ServeLogin)))
	s.mux.HandleFunc("POST /logout", s.auth.KnownHost(s.auth.ServeLogout))
	s.mux.HandleFunc("/", s.auth.KnownHost(s.auth.ProtectPage(options.Page)))
	return s
}

// ServeHTTP serves one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn := connlimit.Of(r)
	conn.Answering()
	defer func() { conn.Waiting(time.Now()) }()
	if conn.OthersWait() || r.ContentLength != 0 && r.Method != http.MethodPost {
		// No handler reads such a body. On a connection for further requests, net/http would read it before the answer.
		w.Header().Set("Connection", "close")
	}
	if reason := s.auth.CheckNetwork(w, r); reason != "" {
		s.noteRefused(r, reason)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// Drain makes the server refuse new jobs: it answers clients that it is shutting down.
func (s *Server) Drain() {
	s.drain()
	s.log.Info("accepting no more jobs")
}

// Cancel cancels the jobs of all sessions. Each session ends when its job has ended.
func (s *Server) Cancel() { s.close(jobend.Shutdown) }

// Close cancels the jobs of all sessions, sends each client its last message, and returns when all sessions have
// ended. http.Server.Shutdown does not do that, because it does not know hijacked connections. The caller must
// make sure that no new request is served.
func (s *Server) Close() {
	s.Cancel()
	s.sessions.Wait()
}

func (s *Server) serveBuild(w http.ResponseWriter, r *http.Request) {
	if !allow(w, r, http.MethodGet) {
		return
	}
	if reason := s.auth.Check(w, r); reason != "" {
		s.noteRefused(r, reason)
		return
	}
	s.sessions.Add(1)
	defer s.sessions.Done()
	answered, ok := s.takeTurn(r)
	if !ok {
		return
	}
	defer answered()
	release, reason, refusal := s.acquire() // before the handshake, which takes time: the first client gets the slot
	defer release()
	conn, err := s.upgrader.Upgrade(w, r, nil)
	if err != nil { // Upgrade has answered the request
		return
	}
	session := newSession(s, conn, s.log.With("client", r.RemoteAddr), answered)
	if reason != "" {
		session.log.Info("client refused", "reason", reason)
		session.end(refusal, websocket.CloseInternalServerErr)
		return
	}
	connlimit.Of(r).Release()
	answered()
	session.serve(func() {
		connlimit.Of(r).Count() // the slots do not limit how many clients read logs of jobs that have ended
		release()
	})
}

// acquire acquires a slot for a job, or a place in the queue for one. For a client that gets none, it counts the reason, and
// returns it with the answer to the client. Otherwise the reason is empty. release may be called more than once.
func (s *Server) acquire() (release func(), reason string, refusal schemas.Response) {
	if s.draining.Err() != nil {
		s.refused(refusedDraining)
		return func() {}, refusedDraining, shuttingDown
	}
	release, ok := s.builder.Acquire()
	if !ok {
		s.refused(refusedBusy)
		return func() {}, refusedBusy, schemas.Busy()
	}
	return release, "", nothing
}

// serveMetrics answers with the builder's metrics. They show what other clients do, so they need the same token.
func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request) {
	switch {
	case s.options.Metrics == nil:
		http.NotFound(w, r)
	case allowReading(w, r) && s.auth.Check(w, r) == "":
		s.options.Metrics.ServeHTTP(w, r)
	}
}

// allow reports whether a request's method is one of methods. If it is not, allow answers the request.
func allow(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	if slices.Contains(methods, r.Method) {
		return true
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
	return false
}

// allowReading is allow for a request that only reads. The server answers HEAD as GET, without the body.
func allowReading(w http.ResponseWriter, r *http.Request) bool {
	return allow(w, r, http.MethodGet, http.MethodHead)
}
