package wsapi

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// maxAnswers is how many clients that want a WebSocket are answered at once; others
	// wait in line.
	maxAnswers = 64
	// maxGuests is how many connections are open beside the job's. Each takes some 20 KiB
	// of memory. What comes beyond waits in the kernel, which takes none of ours.
	maxGuests = 512
	// patience is how long a connection may keep the server waiting when another needs
	// its place.
	patience = 500 * time.Millisecond
)

// A crowd is a listener whose connections cannot crowd out each other. All places taken,
// the one that has kept the server waiting for the longest time has to go.
type crowd struct {
	net.Listener
	max int // how many connections may be open

	mu     sync.Mutex
	guests []*guest
}

// Crowd returns a listener for a Server's connections. They must come to its handler with
// WithConn as the ConnContext of the http.Server, also where TLS lies between.
func Crowd(listener net.Listener) net.Listener { return &crowd{Listener: listener, max: maxGuests} }

func (c *crowd) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g := &guest{Conn: conn, crowd: c}
	for !c.admit(g) {
		time.Sleep(time.Millisecond) // only in a flood, which may wait
	}
	return g, nil
}

// admit gives a guest a place, if there is one or somebody has to go.
func (c *crowd) admit(g *guest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.guests) >= c.max {
		i := c.slowest()
		if i < 0 {
			return false
		}
		c.guests[i].Conn.Close()
		c.guests = slices.Delete(c.guests, i, i+1)
	}
	c.guests = append(c.guests, g)
	return true
}

// slowest returns the guest that has kept the server waiting for the longest time, or -1 if
// that is not long enough.
func (c *crowd) slowest() int {
	slowest, since := -1, time.Now().Add(-patience)
	for i, g := range c.guests {
		if waits := g.waits(); !waits.IsZero() && waits.Before(since) {
			slowest, since = i, waits
		}
	}
	return slowest
}

// waits returns since when the server waits for a guest: to take what is written to it, or, where
// none of its requests is being answered, to send one. It is zero if the server does not.
func (g *guest) waits() time.Time {
	if g.writing.IsZero() && !g.answering {
		return g.reading
	}
	return g.writing
}

// A guest is one connection of a crowd.
type guest struct {
	net.Conn
	crowd *crowd

	// Guarded by the crowd.
	reading   time.Time // since when it is read from; zero: it is not
	writing   time.Time // since when it is written to; zero: it is not
	answering bool      // a request of its is being answered
}

// NetConn returns the connection below.
func (g *guest) NetConn() net.Conn { return g.Conn }

func (g *guest) Read(p []byte) (int, error) {
	g.set(func() { g.reading = time.Now() })
	defer g.set(func() { g.reading = time.Time{} })
	return g.Conn.Read(p)
}

func (g *guest) Write(p []byte) (int, error) {
	g.set(func() { g.writing = time.Now() })
	defer g.set(func() { g.writing = time.Time{} })
	return g.Conn.Write(p)
}

// Close gives up the place as well.
func (g *guest) Close() error {
	g.leave()
	return g.Conn.Close()
}

// leave has a guest count no longer: its job is taken, or its connection closed. It may be nil.
func (g *guest) leave() {
	if g == nil {
		return
	}
	g.set(func() {
		g.crowd.guests = slices.DeleteFunc(g.crowd.guests, func(other *guest) bool { return other == g })
	})
}

func (g *guest) set(change func()) {
	g.crowd.mu.Lock()
	defer g.crowd.mu.Unlock()
	change()
}

type guestKey struct{}

// WithConn is the ConnContext of an http.Server that serves a Server.
func WithConn(ctx context.Context, conn net.Conn) context.Context {
	for conn != nil {
		if g, ok := conn.(*guest); ok {
			return context.WithValue(ctx, guestKey{}, g)
		}
		conn = below(conn)
	}
	return ctx
}

// below returns the connection that another one is made of, or nil.
func below(conn net.Conn) net.Conn {
	if outer, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return outer.NetConn()
	}
	return nil
}

// guestOf returns the guest whose request it is, or nil where there is no crowd.
func guestOf(r *http.Request) *guest {
	g, _ := r.Context().Value(guestKey{}).(*guest)
	return g
}

// answers notes whether it is the server's turn, or the client's.
func (g *guest) answers(isServersTurn bool) {
	if g != nil {
		g.set(func() { g.answering = isServersTurn })
	}
}

// takeTurn waits until a request may be answered. The function that it returns lets the next
// one have its turn; it may be called more than once. ok is false if the client has left.
func (s *Server) takeTurn(r *http.Request) (answered func(), ok bool) {
	select {
	case s.answering <- struct{}{}:
	case <-r.Context().Done():
		return nil, false
	}
	return sync.OnceFunc(func() {
		<-s.answering
		guestOf(r).answers(false)
	}), true
}
