package joblog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"iglu.sh/builder/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receive returns the next value of c. what describes the value. The tests that use it run in a bubble of
// testing/synctest, which ends at once a test that would wait for ever.
func receive[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	value, open := <-c
	if !open {
		t.Fatalf("no %s", what)
	}
	return value
}

// A reader keeps what Follow writes to it.
type reader struct {
	text    bytes.Buffer
	torn    int           // writes that were not whole lines
	written chan struct{} // gets a value after each write, unless one is waiting
}

func newReader() *reader { return &reader{written: make(chan struct{}, 1)} }

func (r *reader) Write(p []byte) (int, error) {
	if !bytes.HasSuffix(p, []byte("\n")) {
		r.torn++
	}
	r.text.Write(p)
	select {
	case r.written <- struct{}{}:
	default:
	}
	return len(p), nil
}

// reading returns a reader of l's own files.
func reading(l *Log) *Reader {
	return &Reader{index: l.index, file: l.file, journal: l.index.journal.file, close: func() error { return nil }}
}

// follow starts a follower of l and returns where its result will be.
func follow(ctx context.Context, l *Log, w io.Writer) <-chan error {
	result := make(chan error, 1)
	go func() { result <- reading(l).Follow(ctx, 0, w) }()
	return result
}

// closed closes s.
func closed(t *testing.T, s *Stream) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// numbered returns lines of many lengths. Some are empty, and one is longer than what a reader reads at once.
func numbered(count int) string {
	var text strings.Builder
	for i := range count {
		fmt.Fprintf(&text, "%d %s\n", i, strings.Repeat("枝", i%50))
		if i%10 == 0 {
			text.WriteByte('\n')
		}
	}
	text.WriteString(strings.Repeat("y", 3*followBuffer) + "\n")
	return text.String()
}

// Followers that start before the first line, between lines and after the last line all get every line.
func TestFollowers(t *testing.T) { synctest.Test(t, testFollowers) }

func testFollowers(t *testing.T) {
	const chunk, join = 1000, 20 // a follower joins every 20 chunks of 1000 bytes
	text := numbered(3000)
	l := newLog(t)
	var readers []*reader
	var results []<-chan error
	start := func() {
		r := newReader()
		readers = append(readers, r)
		results = append(results, follow(context.Background(), l, r))
	}

	start()
	s := l.Stream(schemas.Stdout)
	for i := 0; i*chunk < len(text); i++ {
		write(t, s, text[i*chunk:min((i+1)*chunk, len(text))])
		if i%join == 1 {
			start()
			receive(t, readers[len(readers)-1].written, "line for a follower that came late")
		}
	}
	closed(t, s)
	start()
	l.Complete()
	start()

	for i, result := range results {
		if err := receive(t, result, "end of a follower"); err != nil {
			t.Errorf("follower %d: %v", i, err)
		}
		if got := readers[i].text.String(); got != text {
			t.Errorf("follower %d: got %d bytes ending in %q, want %d", i, len(got), tail(got), len(text))
		}
		if readers[i].torn > 0 {
			t.Errorf("follower %d: %d writes were not whole lines", i, readers[i].torn)
		}
	}
	if len(results) < 10 {
		t.Errorf("only %d followers took part", len(results))
	}
}

// lineByLine sends each write to a channel.
type lineByLine chan string

func (c lineByLine) Write(p []byte) (int, error) {
	c <- string(p)
	return len(p), nil
}

// A reader gets a line as soon as the line has ended, even if no other line follows.
func TestEachLineAtOnce(t *testing.T) { synctest.Test(t, testEachLineAtOnce) }

func testEachLineAtOnce(t *testing.T) {
	l := newLog(t)
	got := make(lineByLine)
	result := follow(context.Background(), l, got)
	s := l.Stream(schemas.Stdout)
	for _, step := range []struct{ chunk, line string }{
		{"a\n", "a\n"},
		{"b", ""},
		{"c\n", "bc\n"},
		{"50%\r", "50%\n"}, // without waiting for an LF
		{"\nd\r", "d\n"},
		{"e\r\n", "e\n"},
		{"\n", "\n"},
	} {
		write(t, s, step.chunk)
		if step.line != "" {
			if line := receive(t, got, "line after "+step.chunk); line != step.line {
				t.Errorf("after %q: got %q, want %q", step.chunk, line, step.line)
			}
		}
	}
	write(t, s, "end")
	closed(t, s)
	if line := receive(t, got, "last line"); line != "end\n" {
		t.Errorf("got %q, want the unterminated last line", line)
	}
	l.Complete()
	if err := receive(t, result, "end of the follower"); err != nil {
		t.Error(err)
	}
}

// A reader that does not read delays neither the job nor another reader. It gets every line when it reads on.
func TestSlowReader(t *testing.T) { synctest.Test(t, testSlowReader) }

func testSlowReader(t *testing.T) {
	l := newLog(t)
	slow, fast := make(lineByLine), newReader()
	slowResult := follow(context.Background(), l, slow)
	fastResult := follow(context.Background(), l, fast)

	text := strings.Repeat(numbered(1000), 5)
	appended := make(chan error, 1)
	go func() {
		s := l.Stream(schemas.Stdout)
		_, err := s.Write([]byte(text))
		appended <- errors.Join(err, s.Close())
		l.Complete()
	}()
	if err := receive(t, appended, "end of the job beside a slow reader"); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, fastResult, "end of the fast reader"); err != nil || fast.text.String() != text {
		t.Errorf("fast reader: %d bytes, want %d; error %v", fast.text.Len(), len(text), err)
	}

	var got strings.Builder
	for got.Len() < len(text) {
		got.WriteString(receive(t, slow, "line for the slow reader"))
	}
	if err := receive(t, slowResult, "end of the slow reader"); err != nil || got.String() != text {
		t.Errorf("slow reader: %d bytes, want %d; error %v", got.Len(), len(text), err)
	}
}

// The longest line, three times as long when none of it is UTF-8, is one write.
func TestLongestLineIsOneWrite(t *testing.T) {
	l := newLog(t)
	write(t, l.Stream(schemas.Stdout), "first\n", strings.Repeat("\xff", longest)+"\n")
	l.Complete()
	r := newReader()
	if err := reading(l).Follow(context.Background(), 0, r); err != nil {
		t.Fatal(err)
	}
	if want := "first\n" + strings.Repeat("\ufffd", longest) + "\n"; r.text.String() != want || r.torn > 0 {
		t.Errorf("got %d bytes, want %d; %d torn writes", r.text.Len(), len(want), r.torn)
	}
}

func TestEmptyLog(t *testing.T) { synctest.Test(t, testEmptyLog) }

func testEmptyLog(t *testing.T) {
	l := newLog(t)
	r := newReader()
	result := follow(context.Background(), l, r)
	s := l.Stream(schemas.Stdout)
	write(t, s, "", "")
	closed(t, s)
	l.Complete()
	l.Complete() // once more is harmless
	if err := receive(t, result, "end of the follower"); err != nil || r.text.Len() > 0 {
		t.Errorf("got %q and error %v, want nothing", r.text.String(), err)
	}
}

func TestCancelWhileWaiting(t *testing.T) { synctest.Test(t, testCancelWhileWaiting) }

func testCancelWhileWaiting(t *testing.T) {
	gone := errors.New("the client is gone")
	ctx, cancel := context.WithCancelCause(context.Background())
	l := newLog(t)
	r := newReader()
	result := follow(ctx, l, r)
	write(t, l.Stream(schemas.Stdout), "a\n")
	receive(t, r.written, "first line")
	cancel(gone)
	if err := receive(t, result, "end of the follower"); !errors.Is(err, gone) {
		t.Errorf("got error %v, want %v", err, gone)
	}
}

// writerFunc is a function that implements io.Writer.
type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A follower returns when its ctx ends, even if there are many more lines to write.
func TestCancelWhileBehind(t *testing.T) {
	l := newLog(t)
	text := strings.Repeat(strings.Repeat("x", 99)+"\n", 20*followBuffer/100)
	write(t, l.Stream(schemas.Stdout), text)
	l.Complete()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	written := 0
	err := reading(l).Follow(ctx, 0, writerFunc(func(p []byte) (int, error) {
		cancel()
		written += len(p)
		return len(p), nil
	}))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want %v", err, context.Canceled)
	}
	if written > len(text)/2 {
		t.Errorf("%d of %d bytes were written after ctx had ended", written, len(text))
	}
}

func TestFailingReader(t *testing.T) { synctest.Test(t, testFailingReader) }

func testFailingReader(t *testing.T) {
	l := newLog(t)
	write(t, l.Stream(schemas.Stdout), "a\n")
	broken := errors.New("broken pipe")
	result := follow(context.Background(), l, writerFunc(func([]byte) (int, error) { return 0, broken }))
	if err := receive(t, result, "end of the follower"); !errors.Is(err, broken) {
		t.Errorf("got error %v, want %v", err, broken)
	}
}

// If a log's file is closed, the writer and the readers get an error.
func TestClosedFile(t *testing.T) { synctest.Test(t, testClosedFile) }

func testClosedFile(t *testing.T) {
	l := newLog(t)
	result := follow(context.Background(), l, newReader())
	if err := l.file.Close(); err != nil {
		t.Fatal(err)
	}
	s := l.Stream(schemas.Stdout)
	if _, err := s.Write([]byte("a\n")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Write: error %v, want %v", err, os.ErrClosed)
	}
	receive(t, result, "end of the follower")
	for name, err := range map[string]error{
		"Write of half a line": second(s.Write([]byte("b"))),
		"Close":                s.Close(),
		"another Stream":       second(l.Stream(schemas.Stdout).Write([]byte("c\n"))),
		"Printf":               l.Printf("d"),
	} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s afterwards: error %v, want %v", name, err, os.ErrClosed)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// fullLog returns a log with the line "first". Its file can be read, but not written, like on a full disk. It also returns
// the file as it was.
func fullLog(t *testing.T) (l *Log, file *os.File) {
	t.Helper()
	l = newLog(t)
	write(t, l.Stream(schemas.Stdout), "first\n")
	readOnly, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", l.file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { readOnly.Close() })
	file, l.file = l.file, readOnly
	return l, file
}

// If a log could not be written completely, a reader gets what was written, and then an error.
func TestFullDisk(t *testing.T) { synctest.Test(t, testFullDisk) }

func testFullDisk(t *testing.T) {
	l, file := fullLog(t)
	r := newReader()
	result := follow(context.Background(), l, r)
	receive(t, r.written, "first line")
	if _, err := l.Stream(schemas.Stdout).Write([]byte("second\n")); err == nil {
		t.Error("Write: no error")
	}
	if err := receive(t, result, "end of the follower"); err == nil {
		t.Error("Follow: no error, as if the log were complete")
	}
	l.Complete()
	late := newReader()
	if err := reading(l).Follow(context.Background(), 0, late); err == nil {
		t.Error("Follow afterwards: no error, as if the log were complete")
	}
	l.file = file // there is room again: lines are missing by now, so none follow
	if _, err := l.Stream(schemas.Stdout).Write([]byte("third\n")); err == nil || l.Lines() != 1 {
		t.Errorf("Write when there is room again: error %v, %d lines", err, l.Lines())
	}
	for _, r := range []*reader{r, late} {
		if diff := cmp.Diff("first\n", r.text.String()); diff != "" {
			t.Errorf("follower (-want +got):\n%s", diff)
		}
	}
}
