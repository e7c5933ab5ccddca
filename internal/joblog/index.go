package joblog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sort"
	"sync"
	"time"

	"iglu.sh/builder/schemas"
)

const (
	// gatherDelay is how long a reader that has caught up waits for more lines
	// before it takes the first, so that a burst of lines costs few writes. It
	// is far below what a person notices.
	gatherDelay = 2 * time.Millisecond
	// markDistance is how far the places lie apart, in bytes, at which a log knows
	// its line number, so that a reader from the middle reads little in vain.
	markDistance = 1 << 20
)

// An index is what the writer of a log tells its readers: how far the log's files reach,
// where lines and messages begin in them, and whether more will follow.
type index struct {
	mu      sync.Mutex
	journal journal
	size    int64         // bytes of the log; its file is whole lines up to here
	lines   int64         // of the log
	marks   []mark        // in ascending order
	sealed  bool          // nothing will be appended any more
	failed  error         // the first write that failed
	changed chan struct{} // closed, and replaced, when size, sealed or failed changes
}

// mark is where a line begins in the file.
type mark struct{ line, offset int64 }

func newIndex() *index { return &index{changed: make(chan struct{})} }

// flush writes out what the journal has gathered, if it is time or now. mu is held.
func (x *index) flush(now bool) {
	if err := x.journal.flush(now); err != nil {
		x.fail("write a job's journal", err)
	}
}

// fail notes that a write has failed, and what it was for. mu is held.
func (x *index) fail(what string, err error) {
	x.failed = fmt.Errorf("%s: %w", what, err)
	x.wake()
}

// wake has readers look again. mu is held.
func (x *index) wake() {
	close(x.changed)
	x.changed = make(chan struct{})
}

// An extent is how far one of a log's files reaches, in bytes. index.mu is held.
type extent func(*index) int64

func ofLog(x *index) int64     { return x.size }
func ofJournal(x *index) int64 { return x.journal.size() }

// state returns how far a file reaches now, what is closed when it changes, and why
// it will not: io.EOF for a sealed log, or the error of its file.
func (x *index) state(of extent) (size int64, changed <-chan struct{}, end error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	end = x.failed
	if end == nil && x.sealed {
		end = io.EOF
	}
	return of(x), x.changed, end
}

// before returns the last mark at or before a line.
func (x *index) before(line int64) mark {
	x.mu.Lock()
	defer x.mu.Unlock()
	i := sort.Search(len(x.marks), func(i int) bool { return x.marks[i].line > line })
	if i == 0 {
		return mark{}
	}
	return x.marks[i-1]
}

// wait returns how far a file reaches when there is something beyond offset, or why
// there will be nothing.
func (x *index) wait(ctx context.Context, of extent, offset int64) (size int64, err error) {
	for caughtUp := false; ; caughtUp = true {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		size, changed, end := x.state(of)
		if size > offset {
			if caughtUp && end == nil && size-offset < followBuffer {
				time.Sleep(gatherDelay)
				size, _, _ = x.state(of)
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

// readJournal reads what is in the file or yet to be written there, as much as there is of
// one of them.
func (x *index) readJournal(file io.ReaderAt, buf []byte, offset int64) (int, error) {
	x.mu.Lock()
	written := x.journal.written
	if offset >= written {
		n := copy(buf, x.journal.pending[offset-written:])
		x.mu.Unlock()
		return n, nil
	}
	x.mu.Unlock()
	return file.ReadAt(buf[:min(int64(len(buf)), written-offset)], offset)
}

// readLines finds the marks of a log, and its end: a server that was killed may have left
// the beginning of a line behind it.
func (x *index) readLines(file io.Reader) error {
	x.marks = []mark{{}}
	for buf, offset := make([]byte, markDistance), int64(0); ; {
		n, err := io.ReadFull(file, buf)
		x.lines += int64(bytes.Count(buf[:n], newline))
		if end := bytes.LastIndexByte(buf[:n], '\n') + 1; end > 0 {
			x.size = offset + int64(end)
			x.marks = append(x.marks, mark{x.lines, x.size})
		}
		offset += int64(n)
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return nil
		default:
			return err
		}
	}
}

// readRecords finds the marks of a journal. Of a server that was killed, the last records
// may be missing: then one more stands for the lines that the log has beyond them.
func (x *index) readRecords(file io.ReaderAt) error {
	j := &x.journal
	for buf := make([]byte, flushSize); ; {
		n, err := file.ReadAt(buf, j.end.offset)
		if err != nil && err != io.EOF {
			return err
		}
		used := 0
		for {
			r, length := parseRecord(buf[used:n], j.end.at)
			if length <= 0 || j.end.next(&r, length).lines > x.lines {
				break
			}
			if k := len(j.marks); k == 0 || j.end.offset-j.marks[k-1].offset >= journalMarkDistance {
				j.marks = append(j.marks, j.end)
			}
			j.end = j.end.next(&r, length)
			used += length
		}
		switch {
		case used > 0:
		case n == len(buf) && n < 2*maxRecord: // one record is longer
			buf = make([]byte, 2*len(buf))
		default:
			j.written = j.end.offset
			j.lines(schemas.Stdout, j.end.at, x.lines-j.end.lines)
			return nil
		}
	}
}
