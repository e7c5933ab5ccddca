package docker

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/docker/docker/api/types"

	"iglu.sh/builder/internal/jobenv"
)

// A stream implements engine.Stream.
type stream struct{ attached types.HijackedResponse }

// Write implements io.Writer. It has a deadline, so that an engine that accepts nothing does not block the caller.
func (s stream) Write(p []byte) (int, error) {
	s.attached.Conn.SetWriteDeadline(time.Now().Add(jobenv.Heartbeat))
	return s.attached.Conn.Write(p)
}

// Close implements io.Closer.
func (s stream) Close() error { s.attached.Close(); return nil }

const (
	// readBuffer is how many bytes of output are read at once.
	readBuffer = 128 << 10
	// burst is a number of bytes that are read at once only if a program prints a lot.
	burst = 8 << 10
	// gatherTime is how long the next read waits then.
	gatherTime = time.Millisecond
)

// Copy implements engine.Stream. Only Close ends it early, not the end of a context.
//
// While a program prints a lot, an engine passes on some 30 KB at a time, and to wake up for each costs more than to
// process it. So Copy gathers what arrives within gatherTime, unless the buffer is half full anyway: then the engine is
// faster. It does so only on a Unix socket, where a read returns all that has arrived. With TLS, it returns one record.
func (s stream) Copy(stdout, stderr io.Writer) error {
	f := frames{outputs: [...]io.Writer{stdinFrame: stdout, stdoutFrame: stdout, stderrFrame: stderr}}
	gathers := s.attached.Conn.LocalAddr().Network() == "unix"
	buf, held := make([]byte, readBuffer), 0
	for {
		n, err := s.attached.Reader.Read(buf[held:])
		rest, failed := f.pass(buf[:held+n])
		held = copy(buf, rest)
		switch {
		case f.written != nil:
			return f.written
		case failed == nil && (err == io.EOF || errors.Is(err, net.ErrClosed)):
			return nil
		case failed != nil || err != nil:
			return callFailure("pass on the container's output", cmp.Or(failed, err))
		case gathers && n >= burst && n < readBuffer/2:
			time.Sleep(gatherTime)
		}
	}
}

// An engine sends the outputs of a container in frames. Each has a header of 8 bytes: the kind of the frame, three bytes
// without a meaning, and the size of its content in bytes as a big-endian number. See "Stream format" in
// https://docs.docker.com/reference/api/engine/version/v1.43/#tag/Container/operation/ContainerAttach.
const frameHeader = 8

// The kinds of frames.
const (
	stdinFrame = iota // belongs to standard output
	stdoutFrame
	stderrFrame
	errorFrame // the text of an error of the engine
)

// frames takes the contents of frames out of a stream.
type frames struct {
	outputs [errorFrame]io.Writer // by the kind of their frames
	kind    byte                  // of the current frame
	left    int64                 // bytes of the current frame that have not arrived
	written error                 // the first error of an output, which is not the engine's
}

// pass writes the contents of frames to their outputs. It returns the rest of data, which is the beginning of a header.
// It overwrites data: the contents of frames of one output that follow each other are written at once.
func (f *frames) pass(data []byte) (rest []byte, err error) {
	content := data[:0] // what is not written yet, in front of the data
	for len(data) > 0 {
		if f.left == 0 {
			if len(data) < frameHeader {
				break
			}
			if kind := data[0]; kind != f.kind {
				if err := f.write(content); err != nil {
					return nil, err
				}
				if kind > errorFrame {
					return nil, fmt.Errorf("unknown kind of output: %d", kind)
				}
				f.kind, content = kind, data[:0]
			}
			f.left = int64(binary.BigEndian.Uint32(data[4:]))
			data = data[frameHeader:]
			continue
		}
		n := min(f.left, int64(len(data)))
		content = append(content, data[:n]...)
		data, f.left = data[n:], f.left-n
	}
	return data, f.write(content)
}

// write writes content of the current kind.
func (f *frames) write(content []byte) error {
	switch {
	case len(content) == 0:
		return nil
	case f.kind == errorFrame:
		return fmt.Errorf("error of the engine: %s", content)
	}
	_, f.written = f.outputs[f.kind].Write(content)
	return f.written
}
