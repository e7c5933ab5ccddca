package jobrun

import (
	"bytes"
	"os/exec"
	"runtime"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// writes is a channel that receives each write.
type writes chan []byte

func (w writes) Write(b []byte) (int, error) {
	w <- bytes.Clone(b)
	return len(b), nil
}

// Output is passed on immediately, also half a line. Processes that a command has left running do not delay the
// end.
func TestTap(t *testing.T) {
	to := make(writes, 100)
	pipe, err := newTee(to)
	if err != nil {
		t.Fatal(err)
	}
	left := exec.Command("sleep", "60")
	left.Stderr = pipe.in
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	defer left.Wait()
	defer left.Process.Kill()
	for _, piece := range []string{"half \xff", " a line\r\n", "\x1b[1m"} {
		pipe.in.WriteString(piece)
		if got := <-to; string(got) != piece {
			t.Errorf("%q has come, want %q", got, piece)
		}
	}
	pipe.in.WriteString("the last")
	pipe.close() // which does not wait for what is left
	close(to)
	var rest []byte
	for b := range to {
		rest = append(rest, b...)
	}
	if string(rest) != "the last" {
		t.Errorf("the rest is %q", rest)
	}
}

// Text that is printed on standard error before a result is written before it, however slow that is.
func TestFollower(t *testing.T) {
	const rounds = 100
	writing, goOn := make(chan struct{}), make(chan struct{})
	var seen atomic.Int64
	errors, err := newTee(writerFunc(func(b []byte) {
		writing <- struct{}{}
		<-goOn
		seen.Add(int64(len(b)))
	}))
	if err != nil {
		t.Fatal(err)
	}
	var failed, got atomic.Int64
	results, err := newTee(follower{writerFunc(func(b []byte) {
		if n := got.Add(int64(len(b))); seen.Load() < n {
			failed.Add(1)
		}
	}), errors.drain})
	if err != nil {
		t.Fatal(err)
	}
	for n := range rounds {
		errors.in.WriteString("e")
		if n%2 == 0 {
			<-writing // it is being written, or still in the pipe
		}
		results.in.WriteString("r")
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			results.drain()
		}()
		if n%2 == 1 {
			<-writing
		}
		for range 100 {
			runtime.Gosched() // the result has its chance to be too early
		}
		goOn <- struct{}{}
		<-gone
	}
	results.close()
	errors.close()
	if failed.Load() > 0 || got.Load() != rounds || seen.Load() != rounds {
		t.Errorf("%d results came before errors; %d and %d came", failed.Load(), got.Load(), seen.Load())
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) {
	f(b)
	return len(b), nil
}

// A program can make its pipe larger. What it has printed right before its end is passed on nevertheless.
func TestTeeOfLargePipe(t *testing.T) {
	const printed = 8 * pipeSize
	for range 200 { // close and copy compete for what is in the pipe
		writing, goOn := make(chan struct{}), make(chan struct{})
		var got atomic.Int64
		tee, err := newTee(writerFunc(func(b []byte) {
			if got.Add(int64(len(b))) == 1 {
				close(writing)
				<-goOn
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.FcntlInt(tee.in.Fd(), unix.F_SETPIPE_SZ, printed); err != nil {
			t.Fatal(err)
		}
		tee.in.WriteString("x")
		<-writing // nothing more is read until goOn is closed
		if _, err := tee.in.Write(make([]byte, printed)); err != nil {
			t.Fatal(err)
		}
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			tee.close()
		}()
		for range 100 {
			runtime.Gosched() // close waits for its turn
		}
		close(goOn)
		<-closed
		if got.Load() != 1+printed {
			t.Fatalf("%d of %d bytes were passed on", got.Load(), 1+printed)
		}
	}
}
