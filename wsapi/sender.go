package wsapi

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/schemas"
)

// The library only reads from a connection; this file does all writing. There are two reasons. The library's
// writer needs a system call for every message, which is too slow for a log of a million lines. And its answers
// to pings would change the connection's deadline during a write to a slow client.

// tlsPiece is how many bytes are written at once over TLS, where a write cannot be continued after its deadline.
// A client counts as connected as long as it accepts this many bytes within the client timeout.
const tlsPiece = 4 << 10

const (
	// closingTimeout is how long a client may take to accept the rest of its log when the server closes.
	closingTimeout = 5 * time.Second
	// A client is behind if a write to it takes longer than behindTimeout when the server closes. The
	// server checks that every behindInterval.
	behindTimeout  = time.Second
	behindInterval = 20 * time.Millisecond
	// endingTimeout is additional time for a client that is not behind: its job needs time to end, and
	// prints more lines.
	endingTimeout = 15 * time.Second
)

// A sender writes frames to one client's connection, one write at a time. It stops when a deadline passes. All
// goroutines of a session use it.
type sender struct {
	conn    net.Conn
	timeout time.Duration  // how long the client may accept nothing
	format  schemas.Format // the format of the messages; set from the job when it is received

	writing turn
	failed  bool                   // a write has failed, so that no other can follow; guarded by writing
	ping    atomic.Pointer[string] // the client's latest ping, not answered yet
	bye     atomic.Pointer[int]    // the code of the client's close frame, not answered yet
	ending  atomic.Bool            // the last frames are being written, or were written

	closeDeadline atomic.Int64 // when the last write must end, in Unix nanoseconds; 0: not set yet
	jobDeadline   time.Time    // when the client must have sent its job; zero after it has sent it
}

func newSender(conn net.Conn, timeout time.Duration) *sender {
	return &sender{conn: conn, timeout: timeout, writing: make(turn, 1)}
}

// A turn is what a goroutine has while it writes. It is a mutex that testing/synctest understands: time passes in a
// test while a goroutine waits for its turn.
type turn chan struct{}

func (t turn) take()     { t <- struct{}{} }
func (t turn) giveBack() { <-t }

func (t turn) tryTake() bool {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}

// send sends one message.
func (s *sender) send(response schemas.Response) error { return s.write(s.textFrame(response)) }

func (s *sender) textFrame(response schemas.Response) []byte {
	return appendFrame(nil, websocket.TextMessage, func(dst []byte) []byte {
		return append(dst, s.format.Encode(response, time.Now())...)
	})
}

func (s *sender) messageFrame(dst []byte, m *schemas.Message) []byte {
	return appendFrame(dst, websocket.TextMessage, func(dst []byte) []byte { return s.format.AppendMessage(dst, m) })
}

// write writes frames as fast as the client accepts them.
func (s *sender) write(frames []byte) error {
	s.writing.take()
	defer s.unlock()
	return s.writeLocked(frames)
}

func (s *sender) writeLocked(frames []byte) error {
	most := len(frames)
	if _, ok := s.conn.(*tls.Conn); ok {
		most = tlsPiece
	}
	for len(frames) > 0 {
		s.conn.SetWriteDeadline(time.Now().Add(s.timeout))
		deadline, isBounded := s.writeDeadline() // after SetWriteDeadline: see setCloseDeadline
		if isBounded {
			s.conn.SetWriteDeadline(deadline)
		}
		n, err := s.conn.Write(frames[:min(most, len(frames))])
		frames = frames[n:]
		if err != nil && (n == 0 || isBounded || !errors.Is(err, os.ErrDeadlineExceeded)) {
			s.failed = true
			return err
		}
		// The client has accepted something before the deadline: it is slow, but connected.
	}
	return nil
}

// unlock ends a write.
func (s *sender) unlock() {
	s.writing.giveBack()
	s.answerPing()
	s.answerClose()
}

// sendUnlessEnding sends one message, unless the last one was sent.
func (s *sender) sendUnlessEnding(response schemas.Response) error {
	s.writing.take()
	defer s.unlock()
	if s.ending.Load() {
		return nil
	}
	return s.writeLocked(s.textFrame(response))
}

// writeLast writes the last frames of the connection.
func (s *sender) writeLast(frames []byte) error {
	s.ending.Store(true)
	return s.write(frames)
}

// sendPing sends a ping to the client. It sends none if another write is in progress, because a slow client
// could not receive the ping before that, or if the last message was sent.
func (s *sender) sendPing() (sent bool) {
	if !s.writing.tryTake() {
		return false
	}
	defer s.unlock()
	if s.ending.Load() {
		return false
	}
	s.writeLocked(controlFrame(websocket.PingMessage, nil))
	return true
}

// receivePing answers a ping of the client, now or after the write in progress. It is the library's handler of
// pings, and returns no error.
func (s *sender) receivePing(data string) error {
	s.ping.Store(&data)
	s.answerPing()
	return nil
}

// answerPing answers the client's latest ping, if it is not answered yet. The goroutine that reads must not wait
// for a write to a slow client. So if a write is in progress, the goroutine that writes answers the ping
// afterwards.
func (s *sender) answerPing() {
	for s.ping.Load() != nil && s.writing.tryTake() {
		if data := s.ping.Swap(nil); data != nil && !s.ending.Load() {
			s.writeLocked(controlFrame(websocket.PongMessage, []byte(*data)))
		}
		s.writing.giveBack()
	}
}

// receiveClose answers the client's close frame, now or after the write in progress, and closes the connection.
func (s *sender) receiveClose(code int) {
	s.bye.Store(&code)
	s.answerClose()
}

// answerClose answers the client's close frame, as RFC 6455, section 5.5.1, wants it, if it is not answered yet. It does
// not if the server has sent a close frame itself, or if the client no longer reads. The goroutine that reads does not
// wait for a write: see answerPing.
func (s *sender) answerClose() {
	for s.bye.Load() != nil && s.writing.tryTake() {
		if code := s.bye.Swap(nil); code != nil && !s.failed && !s.ending.Swap(true) {
			s.conn.SetWriteDeadline(time.Now().Add(closeTimeout))
			s.conn.Write(controlFrame(websocket.CloseMessage, websocket.FormatCloseMessage(*code, "")))
			s.conn.Close() // the client waits for it
		}
		s.writing.giveBack()
	}
}

// writeDeadline returns the deadline of all writes together, if there is one.
func (s *sender) writeDeadline() (deadline time.Time, isBounded bool) {
	if deadline := s.closeDeadline.Load(); deadline != 0 {
		return time.Unix(0, deadline), true
	}
	return s.jobDeadline, !s.jobDeadline.IsZero()
}

// setCloseDeadline sets the time by which all writes must end, including the write in progress. Later calls
// change it only if timeout is 0. It stores the close deadline first, and then sets the connection's deadline. A
// write sets the connection's deadline first, and then loads the close deadline. So neither can miss the other.
func (s *sender) setCloseDeadline(timeout time.Duration) {
	deadline := time.Now().Add(timeout)
	if s.closeDeadline.CompareAndSwap(0, deadline.UnixNano()) || timeout == 0 {
		s.closeDeadline.Store(deadline.UnixNano())
		s.conn.SetWriteDeadline(deadline)
	}
}

// setShutdownDeadline sets the close deadline when the server closes. A client is behind if a write to it takes
// longer than behindTimeout. Such a client gets no additional time for what its job prints at its end.
func (s *sender) setShutdownDeadline() {
	timeout := closingTimeout
	for range behindTimeout / behindInterval {
		if s.writing.tryTake() {
			s.unlock()
			timeout += endingTimeout
			break
		}
		time.Sleep(behindInterval)
	}
	s.setCloseDeadline(timeout)
}

// isPastCloseDeadline reports whether the close deadline is set and has passed.
func (s *sender) isPastCloseDeadline() bool {
	deadline := s.closeDeadline.Load()
	return deadline != 0 && time.Now().UnixNano() >= deadline
}
