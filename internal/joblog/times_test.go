package joblog

import (
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/schemas"
)

// TestTimes writes a line each second, with events between them. It checks the times of the lines, and how many lines
// precede each event.
func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t)
		r := reading(l)
		begun := time.Now().UTC()
		s := l.Stream(schemas.Stdout)
		const count = 9000 // more records than lie between two marks, of one line and of three in turn
		events := map[int64]int64{}
		long := strings.Repeat("x", flushSize) // an event that is longer than what is read at once
		var lines int64
		for n := range count {
			if n%100 == 0 {
				events[r.State().Messages+1] = lines
				if err := l.Event(schemas.LineEvent{Derivation: "a", Text: long[:n*len(long)/count]}); err != nil {
					t.Fatal(err)
				}
			}
			write(t, s, strings.Repeat("line\n", n%2*2+1))
			lines += int64(n%2*2 + 1)
			time.Sleep(time.Second)
		}
		marks := l.index.journal.marks
		if n, size := len(marks), l.index.journal.size(); n < int(size/journalMarkDistance/2) || n > int(size/journalMarkDistance+1) {
			t.Errorf("the journal has %d marks in %d bytes", n, size)
		}
		for _, m := range marks {
			if got := l.index.journal.beforeLine(m.lines); got != m {
				t.Errorf("line %d is looked for from %+v on, not from %+v", m.lines, got, m)
			}
		}
		l.index.flush(true)
		again := newIndex() // after a restart
		again.lines = l.index.lines
		if err := again.readRecords(r.journal); err != nil || !slices.Equal(again.journal.marks, marks) {
			t.Errorf("read again, it has %d marks, %v; want %d", len(again.journal.marks), err, len(marks))
		}
		read := &furthest{ReaderAt: r.journal}
		r.journal = read
		if _, err := r.Times(0, 5); err != nil || read.end > flushSize {
			t.Errorf("for the times of the first lines, %d bytes of the journal are read; %v", read.end, err)
		}
		for _, from := range []int64{0, 1, 3, 4, 5000, lines - 2, lines} {
			times, err := r.Times(from, 5)
			if err != nil || int64(len(times)) != min(5, lines-from) {
				t.Fatalf("from line %d on: %v, %v", from, times, err)
			}
			for i, at := range times {
				line := from + int64(i)
				if want := begun.Add(time.Duration(line/4*2+min(line%4, 1)) * time.Second); !at.Equal(want) {
					t.Errorf("line %d came at %v, want %v", line, at, want)
				}
			}
		}
		for seq, want := range events {
			if got, err := r.LinesBefore(seq); err != nil || got != want {
				t.Errorf("message %d: %d lines before it, %v; want %d", seq, got, err, want)
			}
		}
		if got, err := r.LinesBefore(5); err != nil || got != 3 { // a line, the third of three
			t.Errorf("message 5: %d lines before it, %v; want 3", got, err)
		}
		l.Complete()
	})
}

// furthest notes how far it was read.
type furthest struct {
	io.ReaderAt
	end int64
}

func (f *furthest) ReadAt(p []byte, offset int64) (int, error) {
	f.end = max(f.end, offset+int64(len(p)))
	return f.ReaderAt.ReadAt(p, offset)
}

// readBytes counts how many bytes are read.
type readBytes struct {
	io.ReaderAt
	count int
}

func (r *readBytes) ReadAt(p []byte, offset int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(p, offset)
	r.count += n
	return n, err
}

// TestOffsetReadsLittle looks for lines everywhere in a long log. Each answer with lines for a page begins like that.
func TestOffsetReadsLittle(t *testing.T) {
	const lines, length = 100_000, len("a line\n")
	l := newLog(t)
	stream := l.Stream(schemas.Stdout)
	for range lines / 1000 {
		write(t, stream, strings.Repeat("a line\n", 1000))
	}
	r := reading(l)
	file := &readBytes{ReaderAt: r.file}
	r.file = file
	for line := int64(0); line < lines; line += 777 {
		file.count = 0
		if offset, err := r.Offset(line); err != nil || offset != line*int64(length) {
			t.Fatalf("line %d is at %d, %v", line, offset, err)
		}
		if file.count > 2*followBuffer {
			t.Fatalf("line %d: %d bytes are read", line, file.count)
		}
	}
}

// A log without lines has no times.
func TestNoTimes(t *testing.T) {
	r := reading(newLog(t))
	if times, err := r.Times(0, 5); err != nil || len(times) > 0 {
		t.Errorf("%v, %v", times, err)
	}
	if lines, err := r.LinesBefore(1); err != nil || lines != 0 {
		t.Errorf("%d lines before the first message, %v", lines, err)
	}
}
