// Package joblog keeps the log of a job in a file, which the job writes and any number of readers follow. A slow
// reader gets the lines later: it does not delay the job, and what it has not read takes no memory.
//
// A Store is the folder with the logs, and decides how long they are kept. Store.Create starts a Log, the
// writer's side. Store.Reader returns a Reader, while the job runs or after it has ended.
//
// A job's output arrives as chunks of bytes. A Stream splits it into lines: it makes them valid UTF-8, masks
// secrets, and ends each with one line feed. Reader.Follow writes the lines in the order in which they were
// appended, until the log is complete.
//
// Each log has a journal, in a second file. It holds the time and the stream of each line, and the job's
// events. Reader.FollowMessages returns the lines and the events together, as numbered messages.
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
	limit    int64 // the size in bytes at which the log is cut
	redactor *redact.Redactor
	closed   func()                   // called when the log is closed
	written  func(bytes, lines int64) // called for what is written to the file

	events  sync.Mutex // held while an event is redacted and appended
	streams derivationStreams
	cutLogs map[string]bool // derivations with a line that says that their log is cut

	index *index // shared with the readers; its mu is held while something is appended
	cut   *cut   // the last lines of a log that has reached its limit, else nil; guarded by index.mu
}

// logIn returns a log that writes to two empty files: its lines to one, its journal to the other. Each takes
// at most maxBytes.
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

// Printf appends lines of the builder.
func (l *Log) Printf(format string, args ...any) error {
	stream := l.Stream(schemas.Server)
	fmt.Fprintf(stream, format, args...)
	return stream.Close()
}

// Note appends a line of the builder that has no text of the job. Unlike Printf, it does not use the redactor.
func (l *Log) Note(line string) error { return l.append([]byte(line+"\n"), schemas.Server) }

// append adds whole lines of a stream to the log. It returns the first error of the log's files.
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

// piece describes some whole lines for the journal.
type piece struct {
	stream schemas.Stream
	at     int64 // in milliseconds since 1970
	size   int   // in bytes
}

// write adds whole lines to the file, and the pieces that the lines consist of to the journal. index.mu is
// held.
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

// Complete marks the log as complete: readers that reach its end return.
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

// Failed returns the error of the first write that failed, or nil. Readers get the same error.
func (l *Log) Failed() error {
	l.index.mu.Lock()
	defer l.index.mu.Unlock()
	return l.index.failed
}

// Close closes the log's files. A Reader is not affected: it opens the files itself.
func (l *Log) Close() error {
	err := errors.Join(l.file.Close(), l.index.journal.file.Close())
	l.closed()
	return err
}
