// Package joblog keeps the log of one job in a file that one job writes and any
// number of readers follow. A reader that is slow is merely behind in the file: it
// never holds up the job and takes no memory for what it has not read yet.
//
// What a job prints comes as chunks of bytes (Stream) and becomes lines: valid
// UTF-8, each ended by one line feed in the file. Readers (Follow) get the lines in
// the order in which they were appended.
package joblog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sync"
)

// followBuffer is how many bytes a reader takes at once. A longer line makes its
// reader's buffer grow to the line's length, which maxLine bounds.
const followBuffer = 64 << 10

// A Log is one job's log. Its methods are safe for concurrent use.
type Log struct {
	file *os.File

	mu      sync.Mutex
	size    int64         // bytes appended; the file is whole lines up to here
	sealed  bool          // nothing will be appended any more
	failed  error         // the first write that failed
	changed chan struct{} // closed, and replaced, when one of the above changes
}

// New starts a log in a file of dir that has no name, so that nothing of it is left
// when it is closed or the process ends. An empty dir means the system's own.
func New(dir string) (*Log, error) {
	file, err := os.CreateTemp(dir, "iglu-builder-*.log")
	if err != nil {
		return nil, fmt.Errorf("start a job's log: %w", err)
	}
	if err := os.Remove(file.Name()); err != nil {
		file.Close()
		return nil, fmt.Errorf("start a job's log: %w", err)
	}
	return &Log{file: file, changed: make(chan struct{})}, nil
}

// Printf appends lines of the builder's own.
func (l *Log) Printf(format string, args ...any) error {
	stream := l.Stream()
	fmt.Fprintf(stream, format, args...)
	return stream.Close()
}

// append adds whole lines to the file.
func (l *Log) append(lines []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil || len(lines) == 0 {
		return l.failed
	}
	if _, err := l.file.WriteAt(lines, l.size); err != nil {
		l.failed = fmt.Errorf("write a job's log: %w", err)
	} else {
		l.size += int64(len(lines))
	}
	l.wake()
	return l.failed
}

// Seal says that the log is complete: readers that reach its end are done.
func (l *Log) Seal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.sealed {
		l.sealed = true
		l.wake()
	}
}

func (l *Log) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Close frees the file. Readers must be done.
func (l *Log) Close() error { return l.file.Close() }

// state returns how far the log reaches now, what is closed when it changes, and why
// it will not: io.EOF for a sealed log, or the error of its file.
func (l *Log) state() (size int64, changed <-chan struct{}, end error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	end = l.failed
	if end == nil && l.sealed {
		end = io.EOF
	}
	return l.size, l.changed, end
}

// Follow writes the log to w from its first line on, whole lines at a time and as
// soon as they are there, until the log is sealed and all of it is written, or ctx
// ends, or w or the log's file fails. It returns nil only in the first case.
func (l *Log) Follow(ctx context.Context, w io.Writer) error {
	buf := make([]byte, followBuffer)
	var offset int64
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		size, changed, end := l.state()
		if offset == size {
			if end == io.EOF {
				return nil
			}
			if end != nil {
				return end
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		n, err := l.file.ReadAt(buf[:min(int64(len(buf)), size-offset)], offset)
		if err != nil {
			return fmt.Errorf("read a job's log: %w", err)
		}
		whole := bytes.LastIndexByte(buf[:n], '\n') + 1
		if whole == 0 {
			buf = make([]byte, 2*len(buf))
			continue
		}
		if _, err := w.Write(buf[:whole]); err != nil {
			return err
		}
		offset += int64(whole)
	}
}
