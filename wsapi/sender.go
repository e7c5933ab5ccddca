package wsapi

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/schemas"
)

// The library reads from a connection; all writing is done here. Its own writer takes a
// system call for every message, which a log of a million lines cannot afford, and its
// answers to pings would share the connection's deadline with a write that waits for a
// slow client.

// tlsPiece is how many bytes are written at once over TLS, where a write that has reached
// its deadline cannot be continued. A slow client is there as long as it accepts so much
// in the time that it has.
const tlsPiece = 4 << 10

const (
	// closingTimeout is how long a client may take to accept the rest of its log when
	// the server closes.
	closingTimeout = 5 * time.Second
	// behindTimeout is how long one write may take then without the client counting as
	// behind, and behindInterval how often that is looked at.
	behindTimeout  = time.Second
	behindInterval = 20 * time.Millisecond
	// endingTimeout is how long its job may take to end then, and has more to say.
	endingTimeout = 15 * time.Second
)

// A sender writes frames to one client's connection, one write at a time, and gives up when a
// deadline passes. All goroutines of a session use it.
type sender struct {
	conn    net.Conn
	timeout time.Duration  // how long the client may accept nothing
	form    schemas.Format // of the messages: that of the job, once there is one

	writing sync.Mutex
	ping    atomic.Pointer[string] // the client's latest, not answered yet
	ending  atomic.Bool            // the client is told, or has been, that this is the end

	closeDeadline atomic.Int64 // when the last write must end, in Unix nanoseconds; 0: not set yet
	jobDeadline   time.Time    // when the client must have sent its job; zero when it has
}

// send sends one message.
func (s *sender) send(response schemas.Response) error { return s.write(s.textFrame(response)) }

func (s *sender) textFrame(response schemas.Response) []byte {
	return appendFrame(nil, websocket.TextMessage, func(dst []byte) []byte {
		return append(dst, s.form.Encode(response, time.Now())...)
	})
}

func (s *sender) messageFrame(dst []byte, m *schemas.Message) []byte {
	return appendFrame(dst, websocket.TextMessage, func(dst []byte) []byte { return s.form.AppendMessage(dst, m) })
}

// write writes frames as fast as the client takes them.
func (s *sender) write(frames []byte) error {
	s.writing.Lock()
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
		deadline, isBounded := s.writeDeadline() // only now: see setCloseDeadline
		if isBounded {
			s.conn.SetWriteDeadline(deadline)
		}
		n, err := s.conn.Write(frames[:min(most, len(frames))])
		frames = frames[n:]
		if err != nil && (n == 0 || isBounded || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return err
		}
		// It has accepted something in that time: it is slow, but there.
	}
	return nil
}

// unlock ends a write.
func (s *sender) unlock() {
	s.writing.Unlock()
	s.answerPing()
}

// sendUnlessEnding sends one message, but nothing after the last one.
func (s *sender) sendUnlessEnding(response schemas.Response) error {
	s.writing.Lock()
	defer s.unlock()
	if s.ending.Load() {
		return nil
	}
	return s.writeLocked(s.textFrame(response))
}

// writeLast writes the frames that end the connection.
func (s *sender) writeLast(frames []byte) error {
	s.ending.Store(true)
	return s.write(frames)
}

// sendPing asks the client for a sign of life, unless another write waits for a slow
// client, which could not see the ping before that, or was the last.
func (s *sender) sendPing() (sent bool) {
	if !s.writing.TryLock() {
		return false
	}
	defer s.unlock()
	if s.ending.Load() {
		return false
	}
	s.writeLocked(controlFrame(websocket.PingMessage, nil))
	return true
}

// receivePing answers a ping of the client, now or after the write under way. It is the
// library's handler of pings, and returns no error.
func (s *sender) receivePing(data string) error {
	s.ping.Store(&data)
	s.answerPing()
	return nil
}

// answerPing answers the client's latest ping, if that is still to be done. Who reads
// must not wait for a write to a slow client: whoever writes then answers after it.
func (s *sender) answerPing() {
	for s.ping.Load() != nil && s.writing.TryLock() {
		if data := s.ping.Swap(nil); data != nil && !s.ending.Load() {
			s.writeLocked(controlFrame(websocket.PongMessage, []byte(*data)))
		}
		s.writing.Unlock()
	}
}

// writeDeadline returns the deadline of all that is written now, if there is one.
func (s *sender) writeDeadline() (deadline time.Time, isBounded bool) {
	if deadline := s.closeDeadline.Load(); deadline != 0 {
		return time.Unix(0, deadline), true
	}
	return s.jobDeadline, !s.jobDeadline.IsZero()
}

// setCloseDeadline sets the time by which all writes together must end, the write under way
// included. Later calls change it only if timeout is 0. It stores the close deadline first and
// sets the connection's deadline then. A write sets the connection's deadline first and loads
// the close deadline then. So neither can miss the other.
func (s *sender) setCloseDeadline(timeout time.Duration) {
	deadline := time.Now().Add(timeout)
	if s.closeDeadline.CompareAndSwap(0, deadline.UnixNano()) || timeout == 0 {
		s.closeDeadline.Store(deadline.UnixNano())
		s.conn.SetWriteDeadline(deadline)
	}
}

// setShutdownDeadline sets the close deadline when the server closes. A client is behind if a
// write to it waits for all of behindTimeout. Such a client gets no extra time for what its job
// prints at its end.
func (s *sender) setShutdownDeadline() {
	timeout := closingTimeout
	for range behindTimeout / behindInterval {
		if s.writing.TryLock() {
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
