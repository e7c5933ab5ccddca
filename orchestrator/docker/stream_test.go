package docker

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
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
		if err := s.Copy(io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "Unrecognized input header: 60") {
			t.Errorf("got %v", err)
		}
	})
}

// TestLostStream resets the connection to the engine in the middle of an output: the job ends with jobend.EngineGone.
func TestLostStream(t *testing.T) {
	t.Parallel()
	reset := iotest.ErrReader(&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)})
	s := stream{types.HijackedResponse{Reader: bufio.NewReader(reset)}}
	wantTold(t, s.Copy(io.Discard, io.Discard), stoppedAnswering("pass on the container's output"))
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
