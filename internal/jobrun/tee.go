package jobrun

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// pipeSize is how many bytes a pipe holds, unless a program has changed that: pipe(7).
const pipeSize = 64 << 10

// A tee is a pipe for the output of a command. It passes the output on to a writer immediately.
type tee struct {
	in     *os.File // for the command
	out    *os.File
	raw    syscall.RawConn // of out
	copied chan struct{}   // closed when nothing more is copied

	mu  sync.Mutex // held from reading something until it is written
	to  io.Writer
	buf []byte
}

func newTee(to io.Writer) (*tee, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	raw, err := out.SyscallConn()
	if err = errors.Join(err, allowWriting(in)); err != nil {
		out.Close()
		in.Close()
		return nil, err
	}
	t := &tee{in: in, out: out, raw: raw, to: to, copied: make(chan struct{}), buf: make([]byte, pipeSize)}
	go t.copy()
	return t, nil
}

// copy passes on the output, until the pipe is closed at either end.
func (t *tee) copy() {
	defer close(t.copied)
	for open := true; open; {
		err := t.raw.Read(func(fd uintptr) bool {
			n, empty := t.pass(fd)
			open = n > 0 || empty
			return !empty // false: it is called again when there is more
		})
		open = open && err == nil
	}
}

// pass passes on what is in the pipe. empty is true if the pipe was empty, but not closed.
func (t *tee) pass(fd uintptr) (n int, empty bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := unix.Read(int(fd), t.buf)
	for err == unix.EINTR {
		n, err = unix.Read(int(fd), t.buf)
	}
	if n > 0 {
		t.to.Write(t.buf[:n]) // fails only if the builder has disconnected, and then the job ends
	}
	return n, err == unix.EAGAIN
}

// drain returns when everything that was in the pipe has been passed on. That can be more than pipeSize: a
// program can make its pipe larger.
func (t *tee) drain() {
	t.raw.Control(func(fd uintptr) {
		left, _ := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		for more := true; more; { // at least once, to wait for what copy is writing
			n, _ := t.pass(fd)
			left -= n
			more = n > 0 && left > 0
		}
	})
}

// close returns when everything that the command has printed has been passed on. The command has ended.
// It does not wait for the end of the pipe: processes that the command left running can keep it open.
func (t *tee) close() {
	t.in.Close()
	t.drain()
	t.out.Close()
	<-t.copied
}

// A follower writes after before has returned: then everything that was printed elsewhere is passed on.
type follower struct {
	io.Writer
	before func()
}

func (f follower) Write(b []byte) (int, error) {
	f.before()
	return f.Writer.Write(b)
}
