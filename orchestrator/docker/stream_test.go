package docker

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/docker/docker/api/types"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/test/kit/fakeengine"
)

// TestClosedStream closes a stream while it is read: the container's lifeline ends.
func TestClosedStream(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		c, s := f.start(t, func(p *fakeengine.Process) int {
			fmt.Fprintln(p.Stdout, "before")
			<-p.Lifeline
			return 4
		})
		if n, err := s.Write([]byte{0}); n != 1 || err != nil {
			t.Errorf("a heartbeat: %d, %v", n, err)
		}
		time.AfterFunc(time.Minute, func() { s.Close() })
		begun := time.Now()
		var out bytes.Buffer
		if err := s.Copy(&out, io.Discard); err != nil {
			t.Error(err)
		}
		wantTook(t, begun, time.Minute)
		wantEqual(t, "output", out.String(), "before\n")
		if got, err := c.Wait(t.Context()); got.Code != 4 || err != nil {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

// TestBrokenStream uses a writer that fails, and an output that is not in the engine's format.
func TestBrokenStream(t *testing.T) {
	t.Parallel()
	line := func(p *fakeengine.Process) int { fmt.Fprintln(p.Stdout, "line"); return 0 }
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
		_, s := f.start(t, line)
		full := errors.New("full")
		if err := s.Copy(failingWriter{full}, io.Discard); err != full {
			t.Errorf("got %v, want %v", err, full)
		}
	})
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
		f.fake.Break(callAt("POST /containers/.*/attach", 1), fakeengine.Garbage)
		_, s := f.start(t, line)
		if err := s.Copy(io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "unknown kind of output: 60") {
			t.Errorf("got %v", err)
		}
	})
}

// TestLostStream resets the connection to the engine in the middle of an output: the job ends with jobend.EngineGone.
func TestLostStream(t *testing.T) {
	t.Parallel()
	reset := iotest.ErrReader(&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)})
	s := streamOf(reset, "tcp")
	wantTold(t, s.Copy(io.Discard, io.Discard), stoppedAnswering("pass on the container's output"))
}

// streamOf returns a stream of what an engine sends on a connection of a kind of network.
func streamOf(sent io.Reader, network string) stream {
	return stream{types.HijackedResponse{Conn: conn{network: network}, Reader: bufio.NewReader(sent)}}
}

// A conn has only an address.
type conn struct {
	net.Conn
	network string
}

func (c conn) LocalAddr() net.Addr { return &net.UnixAddr{Net: c.network} }

// outputs notes what a stream writes to both outputs: what follows each other on one output as one text.
type outputs struct {
	texts  [][]byte
	writes int
}

// An output is one of them.
type output struct {
	name string
	to   *outputs
}

func (o output) Write(p []byte) (int, error) {
	o.to.writes++
	if last := len(o.to.texts) - 1; last >= 0 && bytes.HasPrefix(o.to.texts[last], []byte(o.name)) {
		o.to.texts[last] = append(o.to.texts[last], p...)
	} else {
		o.to.texts = append(o.to.texts, append([]byte(o.name), p...))
	}
	return len(p), nil
}

func (o *outputs) copy(s stream) error { return s.Copy(output{"out: ", o}, output{"err: ", o}) }

// frame returns a frame of a kind, as an engine sends it.
func frame(kind byte, content string) string {
	return string(binary.BigEndian.AppendUint32([]byte{kind, 0, 0, 0}, uint32(len(content)))) + content
}

// TestFrames passes on frames that arrive in parts of all sizes.
func TestFrames(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("0123456789", readBuffer/4)
	for _, test := range []struct {
		name, sent string
		want       []string
		err        string
	}{
		{"nothing", "", nil, ""},
		{"both outputs", frame(1, "a\n") + frame(1, "b\n") + frame(2, "c\n") + frame(1, "d\n"), []string{"out: a\nb\n", "err: c\n", "out: d\n"}, ""},
		{"input", frame(0, "a") + frame(1, "b"), []string{"out: ab"}, ""},
		{"empty frames", frame(1, "") + frame(2, "") + frame(1, "a") + frame(2, "") + frame(1, "b"), []string{"out: ab"}, ""},
		{"longer than the buffer", frame(2, long) + frame(1, long), []string{"err: " + long, "out: " + long}, ""},
		{"ends in a frame", frame(1, "a") + frame(2, "bc")[:9], []string{"out: a", "err: b"}, ""},
		{"ends in a header", frame(1, "a") + frame(2, "bc")[:5], []string{"out: a"}, ""},
		{"error of the engine", frame(1, "a") + frame(3, "no space"), []string{"out: a"}, "error of the engine: n"},
		{"no frame", frame(1, "a") + "HTTP/1.1 ", []string{"out: a"}, "unknown kind of output: 72"},
	} {
		for size := 1; size < readBuffer; size = 2*size + 1 {
			var got outputs
			err := got.copy(streamOf(&parts{test.sent, size}, "unix"))
			if text, want := bytes.Join(got.texts, []byte{'|'}), strings.Join(test.want, "|"); string(text) != want {
				t.Errorf("%s, %d bytes at a time: got %d bytes: %.80q, want %d: %.80q", test.name, size, len(text), text, len(want), want)
			}
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("%s, %d bytes at a time: got error %v, want %q", test.name, size, err, test.err)
			}
		}
	}
}

// parts is a text that arrives in parts of a size.
type parts struct {
	text string
	size int
}

func (r *parts) Read(p []byte) (int, error) {
	if r.text == "" {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), r.size)], r.text)
	r.text = r.text[n:]
	return n, nil
}

// TestGather counts how often a stream writes while a program prints, much or little at a time.
func TestGather(t *testing.T) {
	t.Parallel()
	const frames = 256
	for _, test := range []struct {
		network  string
		size     int           // of the content of a frame
		interval time.Duration // between two frames
		writes   int           // at most; exactly, if it is frames
	}{
		{"unix", 16 << 10, 100 * time.Microsecond, frames / 4},
		{"unix", 16 << 10, time.Microsecond, frames / 4}, // faster than the reader
		{"unix", 16 << 10, 5 * time.Millisecond, frames},
		{"unix", 80, 100 * time.Microsecond, frames},
		{"tcp", 16 << 10, 100 * time.Microsecond, frames},
	} {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			var got outputs
			if err := got.copy(streamOf(&arriving{begun: begun, frame: frame(1, strings.Repeat("x", test.size)), left: frames, interval: test.interval}, test.network)); err != nil {
				t.Error(err)
			}
			if got.writes > test.writes || got.writes < frames && test.writes == frames {
				t.Errorf("%s, %d bytes each %s: got %d writes, want %d", test.network, test.size, test.interval, got.writes, test.writes)
			}
			if took, last := time.Since(begun), frames*test.interval; took > last+2*gatherTime {
				t.Errorf("%s, %d bytes each %s: all are there after %s, and passed on after %s", test.network, test.size, test.interval, last, took)
			}
		})
	}
}

// arriving is what an engine sends: a frame again and again, once in each interval. A read returns all that has arrived.
type arriving struct {
	begun    time.Time
	frame    string
	interval time.Duration
	left     int // frames that have not been sent
	sent     int
	pending  []byte
}

func (a *arriving) Read(p []byte) (int, error) {
	if len(a.pending) == 0 && a.left > 0 {
		time.Sleep(time.Until(a.begun.Add(time.Duration(a.sent+1) * a.interval)))
	}
	for len(a.pending) < len(p) && a.left > 0 && time.Since(a.begun) >= time.Duration(a.sent+1)*a.interval {
		a.pending = append(a.pending, a.frame...)
		a.left, a.sent = a.left-1, a.sent+1
	}
	if len(a.pending) == 0 {
		return 0, io.EOF
	}
	n := copy(p, a.pending)
	a.pending = a.pending[n:]
	return n, nil
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// TestStuckHeartbeat has an engine take no input.
func TestStuckHeartbeat(t *testing.T) {
	t.Parallel()
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, _ *fixture) {
		own, other := net.Pipe()
		defer other.Close()
		s := stream{types.HijackedResponse{Conn: own}}
		defer s.Close()
		for range 2 {
			begun := time.Now()
			if _, err := s.Write([]byte{0}); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			wantTook(t, begun, jobenv.Heartbeat)
		}
		go other.Read(make([]byte, 1))
		if _, err := s.Write([]byte{0}); err != nil {
			t.Error(err)
		}
	})
}
