// Package await is how tests wait: for an event, and for a while at most, after which they fail
// and say what has not come.
package await

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"
)

// limit is how long Receive waits for what must happen.
const limit = 2 * time.Minute

// Receive returns what comes from a channel. The test fails where nothing does: what, it says,
// has not happened.
func Receive[T any](t testing.TB, from <-chan T, what string) (got T) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	select {
	case got = <-from:
	case <-deadline.C:
		t.Fatalf("not within %s: %s", limit, what)
	}
	return got
}

// A Log is what a program has written. It tells when there is more.
type Log struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	more chan struct{} // closed by the next write; nil while nobody waits
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
	text, _ := l.now()
	return text
}

// now returns the log so far, and what is closed when there is more.
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
