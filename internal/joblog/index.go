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
	// gatherDelay is how long a reader that has read everything waits for more lines before it reads the
	// first new one, so that a burst of lines needs few writes. A person does not notice this delay.
	gatherDelay = 2 * time.Millisecond
	// eventsDelay is the same for a reader of events, which are for people: the page of a job. It wakes for each line
	// of the job, too.
	eventsDelay = 100 * time.Millisecond
	// markDistance is the distance between two marks in bytes. A reader that starts in the middle of the
	// log reads at most this much before its first line. The marks of 1 GiB take 128 KiB of memory.
	markDistance = 128 << 10
)

// An index is what the writer of a log shares with its readers: the sizes of the log's files, where lines and
// messages begin in them, and whether more will follow.
type index struct {
	mu      sync.Mutex
	journal journal
	size    int64         // bytes of the log, which are whole lines
	lines   int64         // how many lines the log has
	marks   []mark        // in ascending order
	sealed  bool          // nothing more will be appended
	failed  error         // the first write that failed
	changed chan struct{} // closed, and replaced, when size, sealed or failed changes
}

// mark is where a line begins in the file.
type mark struct{ line, offset int64 }

func newIndex() *index { return &index{changed: make(chan struct{})} }

// flush writes the journal's pending records, if there are enough of them or now is true. mu is held.
func (x *index) flush(now bool) {
	if err := x.journal.flush(now); err != nil {
		x.fail("write a job's journal", err)
	}
}

// fail records that a write has failed. what says what was written. mu is held.
func (x *index) fail(what string, err error) {
	x.failed = fmt.Errorf("%s: %w", what, err)
	x.wake()
}

// wake wakes the readers that wait. mu is held.
func (x *index) wake() {
	close(x.changed)
	x.changed = make(chan struct{})
}

// An extent returns the size of one of a log's files in bytes. index.mu is held.
type extent func(*index) int64

func ofLog(x *index) int64     { return x.size }
func ofJournal(x *index) int64 { return x.journal.size() }

// state returns the size of a file, a channel that is closed when the size changes, and why it will not
// change: io.EOF for a sealed log, or the error of its file.
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

// wait waits until a file is longer than offset, and returns its size; or the reason why it will not grow. If it had to
// wait, it waits for delay in addition, for more.
func (x *index) wait(ctx context.Context, of extent, offset int64, delay time.Duration) (size int64, err error) {
	for caughtUp := false; ; caughtUp = true {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		size, changed, end := x.state(of)
		if size > offset {
			if caughtUp && end == nil && size-offset < followBuffer {
				time.Sleep(delay)
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

// readJournal reads from the journal's file, or from the records that are not written yet. It may return
// fewer bytes than there are.
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

// readLines finds the marks of a log, and its end: a server that was killed may have written an incomplete
// last line, which does not count.
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

// readRecords finds the marks of a journal. If the server was killed, the last records may be missing. Then
// readRecords adds one record for the lines of the log that have none.
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
