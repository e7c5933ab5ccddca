// Package agent lets a server use the container engine of another machine. An agent runs beside the
// engine. It takes TLS connections from the server alone, and passes their bytes on to the engine's
// socket and back; it reads none of them.
//
// The two sides know each other by their keys (keys.go), not by names or by who has signed what. The
// server connects with Keys.Dial (dial.go).
package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// handshakeTimeout bounds how long a client may take to show its key.
	handshakeTimeout = 5 * time.Second
	// maxHandshakes is how many clients may be about to show their keys. One more takes the place of
	// the one that has taken the longest. Each takes some 30 KiB of memory.
	maxHandshakes = 128
	// drainInterval is how often an agent that is asked to stop looks whether it may.
	drainInterval = time.Second
	// quietTime is after how long without a byte a connection whose engine owes no answer is idle. It
	// is less than the time between two of the server's pings.
	quietTime = 2 * time.Second
	// acceptPause is how long an agent waits that cannot accept connections, for want of files.
	acceptPause = 100 * time.Millisecond
)

// Options say what an agent does.
type Options struct {
	Listen string // address to listen on
	Keys   *Keys
	Socket string // the engine's unix socket
	// Program is the file of this program, and Version its version.
	Program, Version string
	// Running reports whether jobs run on the engine: the agent does not stop meanwhile.
	Running func(ctx context.Context) (bool, error)
	// Grace is how long jobs may go on for once the agent is asked to stop.
	Grace time.Duration
}

// Serve takes connections until ctx ends, and after that for as long as jobs run and connections are in
// use: at most the time of grace, and only until force ends. It accepts connections meanwhile, because
// a job's last calls come after its end.
func Serve(ctx, force context.Context, o Options, log *slog.Logger) error {
	listener, err := listen(ctx, o.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", o.Listen, err)
	}
	log.Info("listening", "addr", listener.Addr().String(), "engine", o.Socket)
	s := &service{socket: o.Socket, program: o.Program, version: o.Version, log: log, conns: make(map[*passage]struct{}), refused: refusals{log: log}}
	s.tls = o.Keys.listening(s.draining.Load)

	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		s.accept(listener)
	}()
	<-ctx.Done()
	s.drain(force, o)
	listener.Close()
	<-accepted
	s.handshakes.closeAll()
	s.closeAll()
	s.serving.Wait()
	log.Info("stopped")
	return nil
}

// A service is an agent that runs.
type service struct {
	socket     string
	program    string // its file
	version    string
	tls        *tls.Config
	log        *slog.Logger
	draining   atomic.Bool
	handshakes handshakes
	refused    refusals
	serving    sync.WaitGroup

	mu     sync.Mutex
	conns  map[*passage]struct{}
	ended  time.Time // when a connection was closed last
	closed bool
}

// accept takes connections until the listener is closed.
func (s *service) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.log.Warn("cannot accept a connection", "err", err)
			time.Sleep(acceptPause)
			continue
		}
		s.handshakes.add(conn)
		s.serving.Go(func() { s.serve(conn) })
	}
}

// serve passes a connection on to the engine, if its client has the server's key.
func (s *service) serve(conn net.Conn) {
	defer conn.Close()
	client := tls.Server(conn, s.tls)
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	err := client.HandshakeContext(ctx)
	cancel()
	if !s.handshakes.remove(conn) && err == nil {
		err = net.ErrClosed // by closeAll, or by one of too many others
	}
	if errors.Is(err, net.ErrClosed) && s.draining.Load() { // the agent stops
		return
	}
	if err != nil {
		s.refused.add(conn.RemoteAddr(), err)
		return
	}
	if client.ConnectionState().NegotiatedProtocol == protocolProgram {
		s.handshakes.add(conn) // so that an agent that ends need not wait for it
		defer s.handshakes.remove(conn)
		s.sendProgram(client)
		return
	}
	engine, err := net.Dial("unix", s.socket)
	if err != nil {
		s.log.Warn("cannot connect to the engine", "err", err)
		return
	}
	p := newPassage(client, engine.(*net.UnixConn))
	defer p.close()
	if !s.add(p) {
		return
	}
	defer s.remove(p)
	p.run()
}

// add returns false if the agent has closed its connections.
func (s *service) add(p *passage) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.conns[p] = struct{}{}
	}
	return !s.closed
}

func (s *service) remove(p *passage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, p)
	s.ended = time.Now()
}

func (s *service) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for p := range s.conns {
		p.close()
	}
}

// inUse reports whether a connection is, or was until just now: another one may follow.
func (s *service) inUse() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.conns {
		if !p.isIdle() {
			return true
		}
	}
	return time.Since(s.ended) < quietTime
}

// drain returns when no job runs and no connection is in use, or the time for that is up.
func (s *service) drain(force context.Context, o Options) {
	ctx, cancel := context.WithTimeout(force, o.Grace)
	defer cancel()
	s.draining.Store(true)
	tick := time.NewTicker(drainInterval)
	defer tick.Stop()
	for told := false; ; told = true {
		why := s.busy(ctx, o)
		if why == "" {
			return
		}
		if !told {
			s.log.Info("asked to stop: waits for the engine's jobs", "grace", o.Grace, "why", why)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.log.Warn("stops while it is in use", "why", why)
			return
		}
	}
}

// busy returns why the agent may not stop, or "".
func (s *service) busy(ctx context.Context, o Options) string {
	running, err := o.Running(ctx)
	if err != nil { // who knows
		return fmt.Sprintf("the engine does not say whether jobs run: %v", err)
	}
	if running {
		return "jobs run"
	}
	if s.inUse() {
		return "connections are in use"
	}
	return ""
}

// handshakes are the connections whose clients have not shown their keys yet, the oldest first.
type handshakes struct {
	mu    sync.Mutex
	conns []net.Conn
}

// add adds a connection, and closes the oldest if there are too many.
func (h *handshakes) add(conn net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.conns) >= maxHandshakes {
		h.conns[0].Close()
		h.conns = append(h.conns[:0], h.conns[1:]...)
	}
	h.conns = append(h.conns, conn)
}

// remove returns false if the connection has been closed.
func (h *handshakes) remove(conn net.Conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, other := range h.conns {
		if other == conn {
			h.conns = append(h.conns[:i], h.conns[i+1:]...)
			return true
		}
	}
	return false
}

func (h *handshakes) closeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, conn := range h.conns {
		conn.Close()
	}
	h.conns = nil
}

// refusals logs clients that are refused: the first, and then at most one in refusalInterval, so that
// strangers cannot fill a disk.
type refusals struct {
	log *slog.Logger

	mu     sync.Mutex
	next   time.Time
	silent int // how many were not logged since
}

const refusalInterval = 10 * time.Second

func (r *refusals) add(client net.Addr, err error) {
	if errors.Is(err, errOwnKey) && isLoopback(client) { // Check
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Now().Before(r.next) {
		r.silent++
		return
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("it has said nothing")
	}
	r.log.Warn("refused a client", "client", client.String(), "err", err, "others", r.silent)
	r.next, r.silent = time.Now().Add(refusalInterval), 0
}

func isLoopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}
