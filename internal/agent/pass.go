package agent

import (
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// A passage is a connection of the server's and the one to the engine that belongs to it.
type passage struct {
	client *tls.Conn
	engine *net.UnixConn

	owed atomic.Bool  // the last bytes were the client's: the engine owes an answer
	last atomic.Int64 // when they came, in nanoseconds since 1970
}

func newPassage(client *tls.Conn, engine *net.UnixConn) *passage {
	p := &passage{client: client, engine: engine}
	p.note(true) // a request is on its way
	return p
}

// note notes that bytes have come.
func (p *passage) note(ofClient bool) {
	p.owed.Store(ofClient)
	p.last.Store(time.Now().UnixNano())
}

// isIdle reports whether the engine owes no answer and nothing has come for a while. The connection of a
// running job is not idle: the last that comes there is the server's heartbeat.
func (p *passage) isIdle() bool {
	return !p.owed.Load() && time.Since(time.Unix(0, p.last.Load())) >= quietTime
}

func (p *passage) close() {
	p.client.NetConn().Close() // without a farewell, which could block
	p.engine.Close()
}

// run copies bytes both ways until both have ended. The end of one way is passed on by itself, as the
// end of a container's standard input is. A connection that breaks takes the other with it.
func (p *passage) run() {
	clientEnded, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		defer p.close()
		if readErr, writeErr := p.copy(p.engine, p.client, true); readErr != nil {
			return
		} else if writeErr == nil {
			p.engine.CloseWrite()
			close(clientEnded)
		}
		// What still comes is dropped: if it stayed, the kernel would drop what is still to be sent to
		// the client, when this end is closed. The end of TCP, not of TLS, is that of both ways.
		io.Copy(io.Discard, p.client.NetConn())
	}()
	if p.toClient() {
		select {
		case <-clientEnded:
		case <-gone:
		}
	}
	p.close()
	<-gone
}

// toClient copies what the engine says, and passes its end on: also that of an engine that has not read all
// that it was sent, which the kernel tells as an error. It returns false if the client cannot be reached.
func (p *passage) toClient() bool {
	if _, writeErr := p.copy(p.client, p.engine, false); writeErr != nil {
		return false
	}
	if p.client.CloseWrite() != nil { // no room for it within 5 s
		p.client.NetConn().(*net.TCPConn).CloseWrite()
	}
	return true
}

// How much is copied at once. Every open connection takes that much memory. The engine says more than it is
// told, and a record of TLS has at most 16 KiB.
const (
	clientBuffer = 16 << 10
	engineBuffer = 64 << 10
)

// copy copies until the source ends, which is no error.
func (p *passage) copy(to io.Writer, from io.Reader, ofClient bool) (readErr, writeErr error) {
	size := engineBuffer
	if ofClient {
		size = clientBuffer
	}
	buffer := make([]byte, size)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			p.note(ofClient)
			if _, err := to.Write(buffer[:n]); err != nil {
				return nil, err
			}
		}
		if err == io.EOF {
			return nil, nil
		}
		if err != nil {
			return err, nil
		}
	}
}
