package wsapi

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/schemas"
)

// The library reads from a connection; all writing is done here. Its own writer takes a
// system call for every message, which a log of a million lines cannot afford, and its
// answers to pings would share the connection's deadline with a write that waits for a
// slow client.

const (
	// finalFrame marks a frame that is a whole message: RFC 6455, section 5.2.
	finalFrame = 0x80
	// longestHeader is the length in bytes of the header of a frame that is not
	// masked, as a server's frames are.
	longestHeader = 10
	// flushSize is how many bytes of frames are gathered at most before they are
	// written, and one message.
	flushSize = 256 << 10
	// tlsPiece is how many bytes are written at once over TLS, where a write that has reached
	// its deadline cannot be continued. A slow client is there as long as it accepts so much
	// in the time that it has.
	tlsPiece = 4 << 10
)

// A framer makes frames. It leaves room for a header as long as the last one was: mostly the
// next is, and then its payload need not be moved. The zero framer is ready.
type framer struct{ header int }

// append appends a frame whose payload add appends.
func (f *framer) append(dst []byte, opcode byte, add func(dst []byte) []byte) []byte {
	begin := len(dst)
	var room [longestHeader]byte
	dst = add(append(dst, room[:f.header]...))
	size := len(dst) - begin - f.header
	header := appendHeader(room[:0], opcode, size)
	if len(header) != f.header {
		dst = slices.Replace(dst, begin, begin+f.header, header...)
		f.header = len(header)
	}
	copy(dst[begin:], header)
	return dst
}

// appendFrame appends a frame whose payload add appends.
func appendFrame(dst []byte, opcode byte, add func(dst []byte) []byte) []byte {
	return new(framer).append(dst, opcode, add)
}

// appendHeader appends the header of a frame with so many bytes of payload.
func appendHeader(dst []byte, opcode byte, size int) []byte {
	dst = append(dst, finalFrame|opcode)
	switch {
	case size < 126:
		return append(dst, byte(size))
	case size < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(size))
	default:
		return binary.BigEndian.AppendUint64(append(dst, 127), uint64(size))
	}
}

// lineWriter sends each line that is written to it as a message. It is for one
// goroutine.
type lineWriter struct {
	session *session
	framer  framer
	frames  []byte
	line    []byte
	lines   schemas.Lines // of the frames that are gathered
	add     func([]byte) []byte
}

func newLineWriter(s *session) *lineWriter {
	w := &lineWriter{session: s}
	w.add = func(dst []byte) []byte { return w.lines.Append(dst, w.line) }
	return w
}

func (w *lineWriter) Write(lines []byte) (int, error) {
	for rest := lines; len(rest) > 0; {
		w.frames, w.lines = w.frames[:0], w.session.form.Lines(time.Now())
		for len(rest) > 0 && len(w.frames) < flushSize {
			w.line, rest, _ = bytes.Cut(rest, newline)
			w.frames = w.framer.append(w.frames, websocket.TextMessage, w.add)
		}
		if err := w.session.write(w.frames); err != nil {
			return 0, fmt.Errorf("%w: %w", jobend.ClientGone, err)
		}
	}
	return len(lines), nil
}

var newline = []byte{'\n'}

// send sends one message.
func (s *session) send(response schemas.Response) error { return s.write(s.textFrame(response)) }

func (s *session) textFrame(response schemas.Response) []byte {
	return appendFrame(nil, websocket.TextMessage, func(dst []byte) []byte {
		return append(dst, s.form.Encode(response, time.Now())...)
	})
}

// sendPing asks the client for a sign of life, unless another write waits for a slow
// client, which could not see the ping before that, or was the last.
func (s *session) sendPing() (sent bool) {
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

// answerPing answers the client's latest ping, if that is still to be done. Who reads
// must not wait for a write to a slow client: whoever writes then answers after it.
func (s *session) answerPing() {
	for s.ping.Load() != nil && s.writing.TryLock() {
		if data := s.ping.Swap(nil); data != nil && !s.ending.Load() {
			s.writeLocked(controlFrame(websocket.PongMessage, []byte(*data)))
		}
		s.writing.Unlock()
	}
}

// unlock ends a write.
func (s *session) unlock() {
	s.writing.Unlock()
	s.answerPing()
}

func controlFrame(opcode byte, payload []byte) []byte {
	return appendFrame(nil, opcode, func(dst []byte) []byte { return append(dst, payload...) })
}

// write writes frames as fast as the client takes them.
func (s *session) write(frames []byte) error {
	s.writing.Lock()
	defer s.unlock()
	return s.writeLocked(frames)
}

func (s *session) writeLocked(frames []byte) error {
	raw := s.conn.NetConn()
	most := len(frames)
	if _, ok := raw.(*tls.Conn); ok {
		most = tlsPiece
	}
	for len(frames) > 0 {
		raw.SetWriteDeadline(time.Now().Add(s.server.options.ClientTimeout))
		until, isBounded := s.writeUntil() // only now: see hurry
		if isBounded {
			raw.SetWriteDeadline(until)
		}
		n, err := raw.Write(frames[:min(most, len(frames))])
		frames = frames[n:]
		if err != nil && (n == 0 || isBounded || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return err
		}
		// It has accepted something in that time: it is slow, but there.
	}
	return nil
}

// writeUntil returns when all that is written now must have been taken, if there is such a time.
func (s *session) writeUntil() (until time.Time, isBounded bool) {
	if latest := s.latest.Load(); latest != 0 {
		return time.Unix(0, latest), true
	}
	return s.jobBy, !s.jobBy.IsZero()
}

// hurryToClose bounds all writes when the server closes. A client that is behind, so that a
// write waits for it, gets no more time for its job's last words.
func (s *session) hurryToClose() {
	timeout := closingTimeout
	for range behindTimeout / behindInterval {
		if s.writing.TryLock() {
			s.unlock()
			timeout += endingTimeout
			break
		}
		time.Sleep(behindInterval)
	}
	s.hurry(timeout)
}

// isLate reports whether the time is up that hurry has left.
func (s *session) isLate() bool {
	latest := s.latest.Load()
	return latest != 0 && time.Now().UnixNano() >= latest
}

// hurry leaves all writes together only so much time, the one under way included: it
// sets the time first and the deadline then, a write the other way round.
func (s *session) hurry(timeout time.Duration) {
	latest := time.Now().Add(timeout)
	if s.latest.CompareAndSwap(0, latest.UnixNano()) || timeout == 0 {
		s.latest.Store(latest.UnixNano())
		s.conn.NetConn().SetWriteDeadline(latest)
	}
}
