// Package wsapi is the builder's HTTP side: the WebSocket endpoint that receives a job and sends
// its log, and the health checks. It serves the page and the metrics as well, which others
// write. Package auth decides which requests it serves, and package connlimit limits how many
// connections are open.
//
// A client that connects gets a slot for a job. Its connection is a session (session.go). When all
// slots are taken, it gets the answer that the builder is busy, and its connection is closed.
package wsapi

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/wsapi/auth"
	"iglu.sh/builder/wsapi/connlimit"
)

// Builder is what runs the jobs.
type Builder interface {
	// Acquire takes a slot for a job. ok is false if all are taken. release gives the slot back.
	Acquire() (release func(), ok bool)
	// Start starts a job, which ends when ctx does. Its caller has a slot.
	Start(ctx context.Context, request *schemas.Request) Job
	// Healthy returns nil while the container engine answers.
	Healthy(ctx context.Context) error
	// Ready returns nil while a job could run, and else says why not in sentences for people.
	Ready(ctx context.Context) error
}

// A Job is one that a Builder has started.
type Job interface {
	// Follow writes the job's lines to out as they appear, in writes of whole lines, each ended
	// by a line feed; or all of its messages, if out is a schemas.MessageWriter. It returns when
	// the job has ended and all is written, or out fails, or ctx ends.
	Follow(ctx context.Context, out io.Writer) error
	// Wait returns the last message for the job's client when the job has ended. Its number is 0
	// if the builder could not count it. Wait is called once, after Follow.
	Wait() schemas.Message
}

// Options are the settings of a Server.
type Options struct {
	// Commands are the programs that a job may run.
	Commands []string
	// RequestTimeout is how long a client may take to send its job.
	RequestTimeout time.Duration
	// MaxRequestBytes bounds the size of a job.
	MaxRequestBytes int64
	// Auth are the settings of the checks that a request must pass.
	Auth auth.Options
	// ClientTimeout is how long a client may accept nothing of what it is sent
	// before it counts as gone.
	ClientTimeout time.Duration
	// Metrics serves the builder's metrics. It may be nil: then there are none.
	Metrics http.Handler
	// Refused is called each time that a client's job is not taken, with one of Refusals. It
	// may be nil.
	Refused func(reason string)
	// Page serves every path that is not the Server's own, to clients that have the token.
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
	tcpInfo  func(net.Conn) (tcpState, bool) // asks the kernel; false where it does not say

	answering chan struct{} // holds an item for each client that is being answered
	sessions  sync.WaitGroup

	admission sync.Mutex      // held while a client gets a slot
	jobs      sync.WaitGroup  // for clients that have a slot
	draining  context.Context // ends when no job is taken any more
	drain     context.CancelFunc
	closing   context.Context // ends when the server closes
	close     context.CancelCauseFunc
}

// handshakeTimeout bounds how long a client may take to accept the answer to its
// request for a WebSocket.
const handshakeTimeout = 10 * time.Second

// NewServer returns a server for jobs that builder runs.
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
		answering: make(chan struct{}, maxAnswers),
	}
	s.closing, s.close = context.WithCancelCause(context.Background())
	s.draining, s.drain = context.WithCancel(s.closing)
	s.mux.HandleFunc("/api/v1/healthcheck", s.serveHealthcheck)
	s.mux.HandleFunc("/livez", s.serveLive)
	s.mux.HandleFunc("/readyz", s.serveReady)
	s.mux.HandleFunc(schemas.BuildPath, s.auth.KnownHost(s.serveBuild))
	s.mux.HandleFunc("/metrics", s.auth.KnownHost(s.serveMetrics))
	s.mux.HandleFunc("POST /login", s.auth.KnownHost(idleInBody(s.auth.ServeLogin)))
	s.mux.HandleFunc("POST /logout", s.auth.KnownHost(s.auth.ServeLogout))
	s.mux.HandleFunc("/", s.auth.KnownHost(s.auth.ProtectPage(options.Page)))
	return s
}

// ServeHTTP serves one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	connlimit.Of(r).Answering(true)
	defer connlimit.Of(r).Answering(false)
	if reason := s.auth.CheckNetwork(w, r); reason != "" {
		s.log.Info("client refused", "client", r.RemoteAddr, "reason", reason)
		s.refused(reason)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// Drain makes the server take no more jobs: it answers clients that it is shutting down. Drain
// returns when the running jobs have ended, or when ctx ends.
func (s *Server) Drain(ctx context.Context) {
	s.admission.Lock()
	s.drain()
	s.admission.Unlock()
	s.log.Info("taking no more jobs")
	ended := make(chan struct{})
	go func() {
		s.jobs.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

// Cancel cancels all running jobs. Their sessions end when the jobs have.
func (s *Server) Cancel() { s.close(jobend.Shutdown) }

// Close ends every session, those of running jobs included, and sends each client its last
// message. It returns when all sessions have ended. http.Server.Shutdown does not do that: it
// does not know hijacked connections. No request may be served any more.
func (s *Server) Close() {
	s.Cancel()
	s.sessions.Wait()
}

func (s *Server) serveBuild(w http.ResponseWriter, r *http.Request) {
	if !allow(w, r) {
		return
	}
	if reason := s.auth.Check(w, r); reason != "" {
		s.log.Info("client refused", "client", r.RemoteAddr, "reason", reason)
		s.refused(reason)
		return
	}
	s.sessions.Add(1)
	defer s.sessions.Done()
	answered, ok := s.takeTurn(r)
	if !ok {
		return
	}
	defer answered()
	release, refusal := s.acquireSlot() // before the handshake, which takes time: the first client gets the slot
	defer release()
	conn, err := s.upgrader.Upgrade(w, r, nil)
	if err != nil { // which Upgrade has answered
		return
	}
	session := newSession(s, conn, s.log.With("client", r.RemoteAddr), answered)
	if refusal != nothing {
		session.log.Info("client refused", "reason", refusal.Error)
		session.end(refusal, websocket.CloseInternalServerErr)
		return
	}
	connlimit.Of(r).Release()
	answered()
	session.serve(release)
}

// acquireSlot acquires a slot for a job and returns nothing, or returns the answer to a client
// that does not get one. release gives the slot back. It may be called more than once.
func (s *Server) acquireSlot() (release func(), refusal schemas.Response) {
	s.admission.Lock()
	defer s.admission.Unlock()
	if s.draining.Err() != nil {
		s.refused(refusedDraining)
		return func() {}, shuttingDown
	}
	giveBack, ok := s.builder.Acquire()
	if !ok {
		s.refused(refusedBusy)
		return func() {}, schemas.Busy()
	}
	s.jobs.Add(1)
	return sync.OnceFunc(func() {
		giveBack()
		s.jobs.Done()
	}), nothing
}

// healthy is what Iglu's clients expect to read, as they expect it spelled.
const healthy = "Everyting seems healthy!"

func (s *Server) serveHealthcheck(w http.ResponseWriter, r *http.Request) {
	if allow(w, r) && s.isHealthy(w, r) {
		io.WriteString(w, healthy)
	}
}

// isHealthy reports whether the container engine answers, and answers the request if not.
func (s *Server) isHealthy(w http.ResponseWriter, r *http.Request) bool {
	err := s.builder.Healthy(r.Context())
	if err != nil {
		s.log.Warn("health check", "err", err)
		http.Error(w, "The builder cannot run jobs: its container engine does not answer.", http.StatusServiceUnavailable)
	}
	return err == nil
}

// serveLive answers as long as the server does.
func (s *Server) serveLive(w http.ResponseWriter, r *http.Request) {
	if allow(w, r) {
		io.WriteString(w, "The builder is running.\n")
	}
}

// serveReady answers whether a job would be taken and could run, now or when a running one has ended.
func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) {
	if !allow(w, r) {
		return
	}
	if s.draining.Err() != nil {
		http.Error(w, shuttingDown.Error, http.StatusServiceUnavailable)
		return
	}
	if err := s.builder.Ready(r.Context()); err != nil {
		s.log.Warn("not ready", "err", err)
		http.Error(w, "The builder cannot run jobs: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	io.WriteString(w, "The builder takes jobs.\n")
}

// serveMetrics answers with the builder's metrics. They show what other clients do, so they
// need the same token.
func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request) {
	switch {
	case s.options.Metrics == nil:
		http.NotFound(w, r)
	case allow(w, r) && s.auth.Check(w, r) == "":
		s.options.Metrics.ServeHTTP(w, r)
	}
}

// allow reports whether a request is a GET, and answers it if not.
func allow(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet {
		return true
	}
	w.Header().Set("Allow", http.MethodGet)
	http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
	return false
}
