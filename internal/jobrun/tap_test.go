package jobrun

import (
	"bytes"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"
)

// writes is a writer whose writes are received.
type writes chan []byte

func (w writes) Write(b []byte) (int, error) {
	w <- bytes.Clone(b)
	return len(b), nil
}

// What is printed goes on at once, also half a line, and what a command has left running does
// not hold up the end.
func TestTap(t *testing.T) {
	to := make(writes, 100)
	tap, err := newTap(to)
	if err != nil {
		t.Fatal(err)
	}
	left := exec.Command("sleep", "60")
	left.Stderr = tap.in
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	defer left.Wait()
	defer left.Process.Kill()
	for _, piece := range []string{"half \xff", " a line\r\n", "\x1b[1m"} {
		tap.in.WriteString(piece)
		select {
		case got := <-to:
			if string(got) != piece {
				t.Errorf("%q has come, want %q", got, piece)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%q is held back", piece)
		}
	}
	tap.in.WriteString("the last")
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		tap.close()
	}()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
	close(to)
	var rest []byte
	for b := range to {
		rest = append(rest, b...)
	}
	if string(rest) != "the last" {
		t.Errorf("the rest is %q", rest)
	}
}

// What is printed on standard error before a result comes before it, however slowly it is
// written.
func TestFollower(t *testing.T) {
	const rounds = 100
	var failed, seen atomic.Int64
	errors, err := newTap(writerFunc(func(b []byte) {
		time.Sleep(time.Millisecond)
		seen.Add(int64(len(b)))
	}))
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	results, err := newTap(follower{writerFunc(func(b []byte) {
		if got += len(b); seen.Load() < int64(got) {
			failed.Add(1)
		}
	}), errors})
	if err != nil {
		t.Fatal(err)
	}
	for range rounds {
		errors.in.WriteString("e")
		results.in.WriteString("r")
		time.Sleep(100 * time.Microsecond)
	}
	results.close()
	errors.close()
	if failed.Load() > 0 || got != rounds || seen.Load() != rounds {
		t.Errorf("%d results came before errors; %d and %d came", failed.Load(), got, seen.Load())
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) {
	f(b)
	return len(b), nil
}
