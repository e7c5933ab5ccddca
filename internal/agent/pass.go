package agent

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"time"
)

// A passage is a connection from the server, and the connection to the engine to which its bytes are copied.
type passage struct {
	client *tls.Conn
	engine *net.UnixConn

	mu      sync.Mutex // guards the fields below
	used    bool       // the client has sent something
	owed    bool       // the last bytes came from the client: the engine owes an answer
	passing int        // in how many directions bytes are being passed on now
	last    time.Time  // when bytes came or were passed on last
}

// newPassage returns a passage that is not idle for quietTime, because a request may be on its way. It need not be: an HTTP
// client that has connected and then does not need the connection keeps it for half a minute.
func newPassage(client *tls.Conn, engine *net.UnixConn) *passage {
	return &passage{client: client, engine: engine, last: time.Now()}
}

// pass passes bytes on that came from one side.
func (p *passage) pass(data []byte, to io.Writer, ofClient bool) error {
	p.note(func() {
		p.owed = ofClient
		p.used = p.used || ofClient
		p.passing++
	})
	defer p.note(func() { p.passing-- })
	_, err := to.Write(data)
	return err
}

func (p *passage) note(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	p.last = time.Now()
}

// isUsed reports whether the client has sent something.
func (p *passage) isUsed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used
}

// isIdle reports whether the engine owes no answer, and no bytes have come or were passed on for quietTime.
func (p *passage) isIdle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.owed && p.passing == 0 && time.Since(p.last) >= quietTime
}

func (p *passage) close() {
	p.client.NetConn().Close() // without TLS's close message, which could block
	p.engine.Close()
}

// run copies bytes in both directions until both have ended. The end of one direction is passed on while the
// other continues, such as the end of a container's standard input. If one connection breaks, run closes both.
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
		// Read and drop what the client still sends. If it stayed unread, the kernel would discard
		// unsent bytes to the client when this side is closed. Only the end of the TCP connection, not
		// that of TLS, ends both directions.
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

// toClient copies what the engine sends, and passes on its end. An engine that ends before it has read
// everything causes a read error, which counts as a normal end. toClient returns false if the client cannot be
// reached.
func (p *passage) toClient() bool {
	if _, writeErr := p.copy(p.client, p.engine, false); writeErr != nil {
		return false
	}
	if p.client.CloseWrite() != nil { // no room for it within 5 s
		p.client.NetConn().(*net.TCPConn).CloseWrite()
	}
	return true
}

// How many bytes are copied at once. Every open connection takes that much memory. The engine sends more than it
// receives, and a TLS record has at most 16 KiB.
const (
	clientBuffer = 16 << 10
	engineBuffer = 64 << 10
)

// copy copies until the source ends, which is not an error.
func (p *passage) copy(to io.Writer, from io.Reader, ofClient bool) (readErr, writeErr error) {
	size := engineBuffer
	if ofClient {
		size = clientBuffer
	}
	buffer := make([]byte, size)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if err := p.pass(buffer[:n], to, ofClient); err != nil {
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
