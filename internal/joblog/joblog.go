// Package joblog keeps the log of one job in a file that one job writes and any
// number of readers follow. A reader that is slow is merely behind in the file: it
// never holds up the job and takes no memory for what it has not read yet.
//
// What a job prints comes as chunks of bytes (Stream) and becomes lines: valid
// UTF-8, without secrets, each ended by one line feed in the file. Readers (Follow)
// get the lines in the order in which they were appended. A Store (store.go) says
// where the files lie and how long.
//
// Beside the log lies its journal (journal.go): what else the job's messages hold. Its
// readers (FollowMessages) get the lines and the events as messages, numbered and in order.
package joblog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"sync"
	"time"

	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/schemas"
)

const (
	// followBuffer is how many bytes a reader takes at once. A longer line makes
	// its reader's buffer grow to the line's length, which maxLine bounds.
	followBuffer = 128 << 10
	// gatherDelay is how long a reader that has caught up waits for more lines
	// before it takes the first, so that a burst of lines costs few writes. It
	// is far below what a person notices.
	gatherDelay = 2 * time.Millisecond
	// markDistance is how far the places lie apart, in bytes, at which a log knows
	// its line number, so that a reader from the middle reads little in vain.
	markDistance = 1 << 20
)

// A Log is one job's log. Its methods are safe for concurrent use.
type Log struct {
	file     *os.File
	redactor *redact.Redactor
	closed   func() // tells the store
	written  func(bytes, lines int64)

	events  sync.Mutex // held while an event is redacted and appended
	streams derivationStreams

	mu      sync.Mutex
	journal journal
	size    int64         // bytes appended; the file is whole lines up to here
	lines   int64         // lines appended
	marks   []mark        // in ascending order
	cut     *cut          // what is kept of a log beyond its limit; nil below it
	limit   int64         // size in bytes from which on the log is cut
	sealed  bool          // nothing will be appended any more
	failed  error         // the first write that failed
	changed chan struct{} // closed, and replaced, when size, sealed or failed changes
}

// mark is where a line begins in the file.
type mark struct{ line, offset int64 }

// logIn returns the log that is kept in an empty file of at most maxBytes, and its journal
// in another.
func logIn(file, journalFile *os.File, maxBytes int64, redactor *redact.Redactor) *Log {
	return &Log{
		file:     file,
		redactor: redactor,
		closed:   func() {},
		written:  func(int64, int64) {},
		journal:  journal{file: journalFile, limit: maxBytes},
		limit:    max(0, maxBytes-cutReserve),
		changed:  make(chan struct{}),
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
	l.mu.Lock()
	defer l.mu.Unlock()
	now := piece{stream: stream, at: time.Now().UnixMilli(), size: len(lines)}
	switch {
	case l.failed != nil || len(lines) == 0:
	case l.cut != nil:
		l.cut.add(lines, now)
	case l.size+int64(len(lines)) > l.limit:
		l.beginCut(lines, now)
	default:
		l.write(lines, now)
	}
	return l.failed
}

// piece is what the journal tells of some whole lines.
type piece struct {
	stream schemas.Stream
	at     int64 // in milliseconds since 1970
	size   int   // in bytes
}

// write adds whole lines to the file, and the pieces that they are to the journal.
func (l *Log) write(lines []byte, pieces ...piece) {
	if _, err := l.file.WriteAt(lines, l.size); err != nil {
		l.fail("write a job's log", err)
		return
	}
	l.size += int64(len(lines))
	for _, p := range pieces {
		count := int64(bytes.Count(lines[:p.size], newline))
		lines = lines[p.size:]
		l.lines += count
		l.written(int64(p.size), count)
		l.journal.lines(p.stream, p.at, count)
	}
	if n := len(l.marks); n == 0 || l.size-l.marks[n-1].offset >= markDistance {
		l.marks = append(l.marks, mark{l.lines, l.size})
	}
	l.flush(false)
	l.wake()
}

// flush writes out what the journal has gathered, if it is time or now.
func (l *Log) flush(now bool) {
	if err := l.journal.flush(now); err != nil {
		l.fail("write a job's journal", err)
	}
}

func (l *Log) fail(what string, err error) {
	l.failed = fmt.Errorf("%s: %w", what, err)
	l.wake()
}

var newline = []byte{'\n'}

// Seal says that the log is complete: readers that reach its end are done.
func (l *Log) Seal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sealed {
		return
	}
	l.endCut()
	if l.failed == nil {
		l.flush(true)
	}
	l.sealed = true
	l.wake()
}

func (l *Log) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Lines returns how many lines the log has.
func (l *Log) Lines() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines
}

// Close ends the log's use of its file. Readers must be done.
func (l *Log) Close() error {
	err := errors.Join(l.file.Close(), l.journal.file.Close())
	l.closed()
	return err
}

// An extent is how far one of a log's files reaches, in bytes. The log's lock is held.
type extent func(*Log) int64

func ofLog(l *Log) int64     { return l.size }
func ofJournal(l *Log) int64 { return l.journal.size() }

// state returns how far a file reaches now, what is closed when it changes, and why
// it will not: io.EOF for a sealed log, or the error of its file.
func (l *Log) state(of extent) (size int64, changed <-chan struct{}, end error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	end = l.failed
	if end == nil && l.sealed {
		end = io.EOF
	}
	return of(l), l.changed, end
}

// before returns the last mark at or before a line.
func (l *Log) before(line int64) mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := sort.Search(len(l.marks), func(i int) bool { return l.marks[i].line > line })
	if i == 0 {
		return mark{}
	}
	return l.marks[i-1]
}

// Follow writes the log to w from a line on, which is counted from 0, whole lines at a
// time and as soon as they are there, until the log is sealed and all of it is written,
// or ctx ends, or w or the log's file fails. It returns nil only in the first case.
func (l *Log) Follow(ctx context.Context, line int64, w io.Writer) error {
	return l.follow(ctx, l.file, line, w)
}

func (l *Log) follow(ctx context.Context, file io.ReaderAt, line int64, w io.Writer) error {
	at := l.before(line)
	skip, offset := line-at.line, at.offset
	for buf := make([]byte, followBuffer); ; {
		size, err := l.wait(ctx, ofLog, offset)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		n, err := file.ReadAt(buf[:min(int64(len(buf)), size-offset)], offset)
		if err != nil {
			return fmt.Errorf("read a job's log: %w", err)
		}
		whole := bytes.LastIndexByte(buf[:n], '\n') + 1
		if whole == 0 {
			buf = make([]byte, 2*len(buf))
			continue
		}
		offset += int64(whole)
		lines := buf[:whole]
		for ; skip > 0 && len(lines) > 0; skip-- {
			lines = lines[bytes.IndexByte(lines, '\n')+1:]
		}
		if len(lines) > 0 {
			if _, err := w.Write(lines); err != nil {
				return err
			}
		}
	}
}

// wait returns how far a file reaches when there is something beyond offset, or why
// there will be nothing.
func (l *Log) wait(ctx context.Context, of extent, offset int64) (size int64, err error) {
	for caughtUp := false; ; caughtUp = true {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		size, changed, end := l.state(of)
		if size > offset {
			if caughtUp && end == nil && size-offset < followBuffer {
				time.Sleep(gatherDelay)
				size, _, _ = l.state(of)
			}
			return size, nil
		}
		if end != nil {
			return 0, end
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}
