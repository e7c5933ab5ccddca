// Package agent lets a server use the container engine of another machine. An agent runs on the machine of the
// engine. It accepts TLS connections from the server only, and copies their bytes to the engine's socket and
// back, without interpreting them.
//
// Each side recognises the other by its public key (keys.go). Names and signatures of certificates are ignored.
// The server connects with Keys.Dial (dial.go).
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
	// maxRecent is how many clients may be in their handshake at once, and how many may get the program at
	// once. One more closes the oldest. Each takes about 30 KiB of memory.
	maxRecent = 128
	// drainInterval is how often an agent that was asked to stop asks whether jobs run, and idleInterval how often
	// it then looks whether connections are in use.
	drainInterval = time.Second
	idleInterval  = 50 * time.Millisecond
	// lastCallsTime is how long the agent waits after it has last seen a job, because the server makes the last
	// calls of a job after its end.
	lastCallsTime = 2 * time.Second
	// A connection is idle if no byte has come for quietTime and the engine owes no answer. It is much less than
	// the time between two pings of a server, because several servers may use the engine.
	quietTime = 500 * time.Millisecond
	// acceptPause is how long an agent waits after it could not accept a connection, for example because
	// it has too many files open.
	acceptPause = 100 * time.Millisecond
)

// Options are the options of an agent.
type Options struct {
	Listen string // address to listen on
	Keys   *Keys
	Socket string // the engine's unix socket
	// Program is the file of this program, and Version its version.
	Program, Version string
	// Running reports whether jobs run on the engine. The agent does not stop while they do.
	Running func(ctx context.Context) (bool, error)
	// Grace is how long the agent waits for jobs after it was asked to stop.
	Grace time.Duration
}

// Serve serves connections until ctx ends, and after that as long as jobs run or connections are in use, but at
// most for o.Grace and until force ends. It accepts new connections in that time, because the server needs
// them to finish its jobs. The error says that it cannot listen.
func Serve(ctx, force context.Context, o Options, log *slog.Logger) error {
	listener, err := listen(ctx, o.Listen)
	if err != nil {
		return err // which says the address
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
	s.transfers.closeAll()
	s.closeAll()
	s.serving.Wait()
	log.Info("stopped")
	return nil
}

// A service is a running agent.
type service struct {
	socket     string
	program    string // its file
	version    string
	tls        *tls.Config
	log        *slog.Logger
	draining   atomic.Bool
	handshakes recentConns // connections that are in their handshake
	transfers  recentConns // connections that get the program: strangers are in the handshake only, and cannot close them
	refused    refusals
	engineAway atomic.Bool // the last connection to the engine could not be made
	serving    sync.WaitGroup

	mu      sync.Mutex
	conns   map[*passage]struct{}
	ended   time.Time // when a connection was closed last, except those on which the client has sent nothing
	lastJob time.Time // when jobs ran last, or may have; zero: not since the agent was asked to stop
	closed  bool
}

// accept accepts connections until the listener is closed.
func (s *service) accept(listener net.Listener) {
	for failed := false; ; {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if !failed { // else it has been logged
				s.log.Warn("cannot accept connections", "err", err)
			}
			failed = true
			time.Sleep(acceptPause)
			continue
		}
		failed = false
		s.handshakes.add(conn)
		s.serving.Go(func() { s.serve(conn) })
	}
}

// serve connects a client to the engine, if the client has the server's key.
func (s *service) serve(conn net.Conn) {
	defer conn.Close()
	client := tls.Server(conn, s.tls)
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	err := client.HandshakeContext(ctx)
	cancel()
	if !s.handshakes.remove(conn) && err == nil {
		err = net.ErrClosed // closed by closeAll, or by add because there were too many
	}
	if errors.Is(err, net.ErrClosed) && s.draining.Load() { // the agent stops
		return
	}
	if err != nil {
		s.refused.add(conn.RemoteAddr(), err)
		return
	}
	if client.ConnectionState().NegotiatedProtocol == protocolProgram {
		s.transfers.add(conn) // so that an agent that ends need not wait for it
		defer s.transfers.remove(conn)
		s.sendProgram(client)
		return
	}
	engine, err := net.Dial("unix", s.socket)
	s.noteEngine(err)
	if err != nil {
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

// noteEngine logs that the engine cannot be reached, and when it can be again. A server asks every few seconds.
func (s *service) noteEngine(err error) {
	switch wasAway := s.engineAway.Swap(err != nil); {
	case err != nil && !wasAway:
		s.log.Warn("cannot connect to the engine", "err", err)
	case err == nil && wasAway:
		s.log.Info("the engine can be reached again")
	}
}

// add adds a passage. It returns false if the agent has closed its connections already.
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
	if p.isUsed() { // otherwise the server has only asked whether the agent is draining
		s.ended = time.Now()
	}
}

func (s *service) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for p := range s.conns {
		p.close()
	}
}

// inUse reports whether a connection is in use, or was within quietTime, or a job was within lastCallsTime: the server
// may make another connection soon.
func (s *service) inUse() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.conns {
		if !p.isIdle() {
			return true
		}
	}
	return time.Since(s.ended) < quietTime || time.Since(s.lastJob) < lastCallsTime
}

// noteJob records that jobs run now, or may.
func (s *service) noteJob() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastJob = time.Now()
}

// drain waits until no job runs and no connection is in use. It returns earlier after o.Grace, or when force ends.
func (s *service) drain(force context.Context, o Options) {
	ctx, cancel := context.WithTimeout(force, o.Grace)
	defer cancel()
	s.draining.Store(true)
	tick := time.NewTicker(drainInterval)
	defer tick.Stop()
	for logged := false; ; logged = true {
		why := s.busy(ctx, o)
		if why == "" {
			return
		}
		if !logged {
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

// busy returns why the agent may not stop, or "". If no job runs, it waits up to drainInterval for a moment in which no
// connection is in use. One look would not do: the engine's answer can take as long as the servers' pings are apart, and
// always come with one of them.
func (s *service) busy(ctx context.Context, o Options) string {
	running, err := o.Running(ctx)
	if err != nil { // jobs may run
		s.noteJob()
		return fmt.Sprintf("the engine does not say whether jobs run: %v", err)
	}
	if running {
		s.noteJob()
		return "jobs run"
	}
	for begun := time.Now(); s.inUse(); {
		if time.Since(begun) >= drainInterval || ctx.Err() != nil {
			return "connections are in use"
		}
		time.Sleep(idleInterval)
	}
	return ""
}

// recentConns are the last maxRecent connections of a kind, the oldest first.
type recentConns struct {
	mu     sync.Mutex
	conns  []net.Conn
	closed bool // by closeAll
}

// add adds a connection, and closes the oldest if there are too many. After closeAll it closes the connection.
func (r *recentConns) add(conn net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		conn.Close()
		return
	}
	if len(r.conns) >= maxRecent {
		r.conns[0].Close()
		r.conns = append(r.conns[:0], r.conns[1:]...)
	}
	r.conns = append(r.conns, conn)
}

// remove returns false if the connection has been closed.
func (r *recentConns) remove(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, other := range r.conns {
		if other == conn {
			r.conns = append(r.conns[:i], r.conns[i+1:]...)
			return true
		}
	}
	return false
}

func (r *recentConns) closeAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, conn := range r.conns {
		conn.Close()
	}
	r.conns, r.closed = nil, true
}

// refusals logs clients that are refused: the first, and then at most one in refusalInterval, so that
// strangers cannot fill a disk.
type refusals struct {
	log *slog.Logger

	mu     sync.Mutex
	next   time.Time
	silent int // how many refusals were not logged since the last that was
}

const refusalInterval = 10 * time.Second

func (r *refusals) add(client net.Addr, err error) {
	if errors.Is(err, errOwnKey) && isLoopback(client) { // it is Check
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
