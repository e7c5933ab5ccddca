// Package joblog keeps the log of a job in a file, which the job writes and any number of readers follow. A slow
// reader gets the lines later: it does not delay the job, and what it has not read takes no memory.
//
// A Store is the folder with the logs, and decides how long they are kept. Store.Create starts a Log, the
// writer's side. Store.Reader returns a Reader, while the job runs or after it has ended.
//
// A job's output arrives as chunks of bytes. A Stream cuts it into lines: valid UTF-8, secrets masked, each with one
// line feed in the file. Reader.Follow writes the lines in the order in which they were appended, until the log
// is sealed.
//
// With the log there is a journal, in a second file: when each line was written and from which stream, and the
// job's events. Reader.FollowMessages returns the lines and the events together, as numbered messages.
package joblog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/schemas"
)

// A Log is the writer's side of one job's log. Its methods are safe for concurrent use.
type Log struct {
	file     *os.File
	limit    int64 // size in bytes from which on the log is cut
	redactor *redact.Redactor
	closed   func() // tells the store
	written  func(bytes, lines int64)

	events  sync.Mutex // held while an event is redacted and appended
	streams derivationStreams
	cutLogs map[string]bool // derivations whose logs are said to be cut

	index *index // what readers know; its mu is held while something is appended
	cut   *cut   // what is kept of a log beyond its limit; nil below it. index.mu is held
}

// logIn returns the log that is kept in an empty file of at most maxBytes, and its journal
// in another.
func logIn(file, journalFile *os.File, maxBytes int64, redactor *redact.Redactor) *Log {
	x := newIndex()
	x.journal.file, x.journal.limit = journalFile, maxBytes
	return &Log{
		file:     file,
		limit:    max(0, maxBytes-cutReserve),
		redactor: redactor,
		closed:   func() {},
		written:  func(int64, int64) {},
		index:    x,
	}
}

// Printf appends lines of the builder's own.
func (l *Log) Printf(format string, args ...any) error {
	stream := l.Stream(schemas.Server)
	fmt.Fprintf(stream, format, args...)
	return stream.Close()
}

// append adds whole lines of a stream to the log. Its error is the first that a file had.
func (l *Log) append(lines []byte, stream schemas.Stream) error {
	x := l.index
	x.mu.Lock()
	defer x.mu.Unlock()
	now := piece{stream: stream, at: time.Now().UnixMilli(), size: len(lines)}
	switch {
	case x.failed != nil || len(lines) == 0:
	case l.cut != nil:
		l.cut.add(lines, now)
	case x.size+int64(len(lines)) > l.limit:
		l.beginCut(lines, now)
	default:
		l.write(lines, now)
	}
	return x.failed
}

// piece is what the journal tells of some whole lines.
type piece struct {
	stream schemas.Stream
	at     int64 // in milliseconds since 1970
	size   int   // in bytes
}

// write adds whole lines to the file, and the pieces that they are to the journal.
// index.mu is held.
func (l *Log) write(lines []byte, pieces ...piece) {
	x := l.index
	if _, err := l.file.WriteAt(lines, x.size); err != nil {
		x.fail("write a job's log", err)
		return
	}
	x.size += int64(len(lines))
	for _, p := range pieces {
		count := int64(bytes.Count(lines[:p.size], newline))
		lines = lines[p.size:]
		x.lines += count
		l.written(int64(p.size), count)
		x.journal.lines(p.stream, p.at, count)
	}
	if n := len(x.marks); n == 0 || x.size-x.marks[n-1].offset >= markDistance {
		x.marks = append(x.marks, mark{x.lines, x.size})
	}
	x.flush(false)
	x.wake()
}

var newline = []byte{'\n'}

// Complete says that the log is complete: readers that reach its end are done.
func (l *Log) Complete() {
	x := l.index
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.sealed {
		return
	}
	l.endCut()
	if x.failed == nil {
		x.flush(true)
	}
	x.sealed = true
	x.wake()
}

// Lines returns how many lines the log has.
func (l *Log) Lines() int64 {
	l.index.mu.Lock()
	defer l.index.mu.Unlock()
	return l.index.lines
}

// Close ends the log's use of its files. A Reader has files of its own.
func (l *Log) Close() error {
	err := errors.Join(l.file.Close(), l.index.journal.file.Close())
	l.closed()
	return err
}
