// Package await has helpers with which tests wait for events: for a value from a channel, or for text in
// a log. A wait that times out fails with a message that says what did not happen.
package await

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"
)

// limit is how long Receive waits.
const limit = 2 * time.Minute

// Receive returns the next value from a channel. If there is none within two minutes, the test fails with
// what, a description of the event.
func Receive[T any](t testing.TB, from <-chan T, what string) (got T) {
	t.Helper()
	return ReceiveWithin(t, limit, from, what)
}

// ReceiveWithin is Receive with another time.
func ReceiveWithin[T any](t testing.TB, timeout time.Duration, from <-chan T, what string) (got T) {
	t.Helper()
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	select {
	case got = <-from:
	case <-deadline.C:
		t.Fatalf("did not happen within %s: %s", timeout, what)
	}
	return got
}

// A Log collects the output of a program, or of several goroutines. A test can wait for text in it.
type Log struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	more chan struct{} // closed by the next write; nil if nobody waits
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
	return l.buf.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// now returns the log so far, and a channel that the next write closes.
func (l *Log) now() (string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.more == nil {
		l.more = make(chan struct{})
	}
	return l.buf.String(), l.more
}

// Await waits until a condition on the log holds, or returns an error after the timeout.
func (l *Log) Await(timeout time.Duration, holds func(text string) bool) error {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	for {
		text, more := l.now()
		if holds(text) {
			return nil
		}
		select {
		case <-more:
		case <-deadline.C:
			return fmt.Errorf("not in the log after %s: %s", timeout, text)
		}
	}
}
