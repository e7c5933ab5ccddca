// Package wsapi is the builder's HTTP side: who may connect, the WebSocket endpoint that
// takes a job and sends its log, the health checks, and the door before the page and the
// metrics.
//
// One client at a time has the place for a job. Its connection is a session (session.go);
// every other client is told that the builder is busy and let go.
package wsapi

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/schemas"
)

// Builder is what runs the jobs.
type Builder interface {
	// Build runs a job to its end and returns the last message for its client.
	// Until then out gets the job's output in writes of whole lines, each ended
	// by a line feed; or, if it is a schemas.MessageWriter, all of the job's messages.
	// When ctx ends or out fails, so does the job. The number of the last message is 0
	// if the builder could not count it.
	Build(ctx context.Context, request *schemas.Request, out io.Writer) schemas.Message
	// Healthy returns nil while jobs can be run.
	Healthy(ctx context.Context) error
}

// Options are the settings of a Server.
type Options struct {
	// Commands are the programs that a job may run.
	Commands []string
	// RequestTimeout is how long a client may take to send its job.
	RequestTimeout time.Duration
	// MaxRequestBytes bounds the size of a job.
	MaxRequestBytes int64
	// Token is what a client must show to be served; empty: nothing.
	Token string
	// AllowedOrigins are the origins of pages that may connect beside the server's own,
	// such as https://example.com.
	AllowedOrigins []string
	// IsOfJobs reports whether an address is one that a job can have: such clients are turned away.
	// It may be nil.
	IsOfJobs func(netip.Addr) bool
	// ClientTimeout is how long a client may accept nothing of what it is sent
	// before it counts as gone.
	ClientTimeout time.Duration
	// Metrics serves the builder's numbers, if it is not nil, and Refused is told the
	// reason each time that a client's job is not taken: one of Refusals.
	Metrics http.Handler
	Refused func(reason string)
	// Page serves every path that is not the Server's own, to those who have the token.
	Page http.Handler
}

// A Server serves the builder's HTTP endpoints. It is an http.Handler.
type Server struct {
	builder  Builder
	options  Options
	log      *slog.Logger
	mux      *http.ServeMux
	upgrader websocket.Upgrader
	tcpInfo  func(net.Conn) (tcpState, bool) // asks the kernel; false where it does not say

	answering chan struct{} // holds an item for each client that is being answered
	place     chan struct{} // holds one item while a client is connected that may have a job
	sessions  sync.WaitGroup
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
		mux:     http.NewServeMux(),
		upgrader: websocket.Upgrader{
			HandshakeTimeout: handshakeTimeout,
			Subprotocols:     []string{schemas.EventsProtocol, bearer}, // what is first counts
			CheckOrigin:      func(*http.Request) bool { return true }, // turnAway has
		},
		tcpInfo:   tcpInfo,
		answering: make(chan struct{}, maxAnswers),
		place:     make(chan struct{}, 1),
	}
	s.closing, s.close = context.WithCancelCause(context.Background())
	s.draining, s.drain = context.WithCancel(s.closing)
	s.mux.HandleFunc("/api/v1/healthcheck", s.serveHealthcheck)
	s.mux.HandleFunc("/livez", s.serveLive)
	s.mux.HandleFunc("/readyz", s.serveReady)
	s.mux.HandleFunc(schemas.BuildPath, s.byKnownNames(s.serveBuild))
	s.mux.HandleFunc("/metrics", s.byKnownNames(s.serveMetrics))
	s.mux.HandleFunc("POST /login", s.byKnownNames(s.serveLogin))
	s.mux.HandleFunc("POST /logout", s.byKnownNames(s.serveLogout))
	s.mux.HandleFunc("/", s.byKnownNames(s.servePage))
	return s
}

// ServeHTTP serves one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	guestOf(r).answers(true)
	defer guestOf(r).answers(false)
	if s.comesFromJob(r) {
		s.refused(refusedJob)
		http.Error(w, "The builder takes no clients from the network that its jobs are on.", http.StatusForbidden)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// Drain has the server take no more jobs and tell that to whoever asks. It returns when the
// running job has ended, or when ctx ends.
func (s *Server) Drain(ctx context.Context) {
	s.drain()
	s.log.Info("taking no more jobs")
	select {
	case s.place <- struct{}{}: // for ever
	case <-ctx.Done():
	}
}

// Close ends every session, the running job's included, tells its client, and returns when
// all are gone. http.Server.Shutdown knows nothing of them. No request may be served any
// more.
func (s *Server) Close() {
	s.close(jobend.Shutdown)
	s.sessions.Wait()
}

func (s *Server) serveBuild(w http.ResponseWriter, r *http.Request) {
	if !allow(w, r) {
		return
	}
	if reason := s.turnAway(w, r); reason != "" {
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
	refusal := s.takePlace() // before a client is connected, so that the first is the first
	conn, err := s.upgrader.Upgrade(w, r, nil)
	if err != nil { // which Upgrade has answered
		if refusal == nothing {
			<-s.place
		}
		return
	}
	session := newSession(s, conn, s.log.With("client", r.RemoteAddr), answered)
	if refusal != nothing {
		session.end(refusal, websocket.CloseInternalServerErr)
		return
	}
	guestOf(r).leave()
	answered()
	session.serve()
}

// takePlace takes the place for a job, or returns what a client is told that does not get it.
func (s *Server) takePlace() (refusal schemas.Response) {
	if s.draining.Err() != nil {
		s.refused(refusedDraining)
		return shuttingDown
	}
	select {
	case s.place <- struct{}{}:
		return nothing
	default:
		s.refused(refusedBusy)
		return schemas.Busy()
	}
}

// healthy is what Iglu's clients expect to read, as they expect it spelled.
const healthy = "Everyting seems healthy!"

func (s *Server) serveHealthcheck(w http.ResponseWriter, r *http.Request) {
	if allow(w, r) && s.isHealthy(w, r) {
		io.WriteString(w, healthy)
	}
}

// isHealthy reports whether jobs can be run, and answers the request if not.
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

// serveReady answers whether a job would be taken, now or when the running one has ended.
func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) {
	switch {
	case !allow(w, r):
	case s.draining.Err() != nil:
		http.Error(w, shuttingDown.Error, http.StatusServiceUnavailable)
	case s.isHealthy(w, r):
		io.WriteString(w, "The builder takes jobs.\n")
	}
}

// serveMetrics answers with the builder's numbers. They tell what others do here, so they
// lie behind the same token.
func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request) {
	switch {
	case s.options.Metrics == nil:
		http.NotFound(w, r)
	case allow(w, r) && s.turnAway(w, r) == "":
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
