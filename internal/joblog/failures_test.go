package joblog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/schemas"
)

func newStore(t *testing.T, keep Keep) *Store {
	t.Helper()
	s, err := Open(t.TempDir(), keep, 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// made creates the log of a job with the given lines, and completes it.
func made(t *testing.T, s *Store, job string, lines ...string) {
	t.Helper()
	l, err := s.Create(job, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		write(t, l.Stream(schemas.Stdout), line+"\n")
	}
	l.Complete()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func readerOf(t *testing.T, s *Store, job string) *Reader {
	t.Helper()
	r, err := s.Reader(job)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestStoreCounts(t *testing.T) {
	s := newStore(t, Keep{Jobs: 1})
	var bytes, lines int64
	s.Written = func(b, n int64) { bytes, lines = bytes+b, lines+n }
	l, err := s.Create("job", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	write(t, l.Stream(schemas.Stdout), "a\nbc\n", "de\n")
	if err := l.Printf("f"); err != nil {
		t.Fatal(err)
	}
	if bytes != 10 || lines != 4 || l.Lines() != 4 {
		t.Errorf("%d bytes, %d lines, the log has %d", bytes, lines, l.Lines())
	}
	if !s.Has("job") || s.Has("none") {
		t.Errorf("has the job: %t, has none: %t", s.Has("job"), s.Has("none"))
	}
}

// A job whose journal cannot be created has no log either.
func TestCreateWithoutJournal(t *testing.T) {
	s := newStore(t, Keep{})
	if err := os.Mkdir(filepath.Join(s.folder, "job.events"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create("job", nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v", err)
	}
	if s.Has("job") || len(s.current) > 0 {
		t.Error("the log is left")
	}
}

func TestPruneErrors(t *testing.T) {
	s := newStore(t, Keep{})
	made(t, s, "gone")
	if err := os.Mkdir(filepath.Join(s.folder, "folder.log"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Prune(); err != nil || !s.Has("folder") {
		t.Errorf("a folder is no log: %v", err)
	}
	// What cannot be removed: a journal that is a folder with something in it.
	if err := errors.Join(os.MkdirAll(filepath.Join(s.folder, "job.events/x"), 0o700), os.WriteFile(filepath.Join(s.folder, "job.log"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := s.Prune(); err == nil {
		t.Error("a journal that cannot be removed: no error")
	}
	if err := errors.Join(os.RemoveAll(s.folder), os.WriteFile(s.folder, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := s.Prune(); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("with a file in place of its folder: error %v", err)
	}
}

func TestReaderErrors(t *testing.T) {
	s := newStore(t, Keep{Jobs: 10})
	at := func(name string) string { return filepath.Join(s.folder, name) }
	err := errors.Join(os.Mkdir(at("folder.log"), 0o700), os.WriteFile(at("loop.log"), nil, 0o600), os.Symlink("loop.events", at("loop.events")),
		os.WriteFile(at("journal.log"), nil, 0o600), os.Mkdir(at("journal.events"), 0o700))
	if err != nil {
		t.Fatal(err)
	}
	for job, want := range map[string]string{
		"folder": "read a job's log: ", "loop": "open a job's journal: ", "journal": "read a job's log: ", "none": "open a job's log: ",
	} {
		r, err := s.Reader(job)
		if err == nil {
			r.Close()
		}
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: error %v, want %s...", job, err, want)
		}
	}
}

// The indexes of the last 16 ended jobs that were read are kept in memory.
func TestIndexed(t *testing.T) {
	s := newStore(t, Keep{Jobs: 100})
	indexes := map[int]*index{}
	read := func(n int) (known bool) {
		t.Helper()
		x := readerOf(t, s, fmt.Sprint(n)).index
		known = indexes[n] == x
		indexes[n] = x
		return known
	}
	for n := range 17 {
		made(t, s, fmt.Sprint(n), "a line")
	}
	for n := range 16 {
		read(n)
	}
	if !read(0) {
		t.Error("the first of 16 is forgotten")
	}
	read(16) // in place of 1, which was not read for the longest time
	for n, want := range map[int]bool{0: true, 2: true, 15: true, 16: true} {
		if read(n) != want {
			t.Errorf("%d is known: %t", n, !want)
		}
	}
	if read(1) {
		t.Error("17 are known")
	}
	if len(s.read) != 16 {
		t.Errorf("%d are known", len(s.read))
	}
}

// A heldFile is a log whose reading waits.
type heldFile struct {
	io.Reader
	goOn <-chan struct{}
}

func (f heldFile) Read(p []byte) (int, error) {
	<-f.goOn
	return f.Reader.Read(p)
}

// TestIndexIsBuiltOnce opens the log of an ended job several times at once, as its page does: only the first one reads it
// for its index. If that fails, the next one tries again.
func TestIndexIsBuiltOnce(t *testing.T) {
	for _, failure := range []error{nil, errors.New("input/output error")} {
		synctest.Test(t, func(t *testing.T) {
			s := newStore(t, Keep{Jobs: 1})
			goOn := make(chan struct{})
			first := heldFile{strings.NewReader("one\ntwo\n"), goOn}
			if failure != nil {
				first.Reader = iotest.ErrReader(failure)
			}
			const readers = 3
			var lines [readers]int64
			var errs [readers]error
			var all sync.WaitGroup
			for n := range readers {
				all.Go(func() {
					file := io.Reader(first)
					if n > 0 {
						file = iotest.ErrReader(errors.New("it is read again"))
					}
					x, err := s.index("job", file, bytes.NewReader(nil))
					lines[n], errs[n] = x.lines, err
				})
				synctest.Wait()
			}
			close(goOn)
			all.Wait()
			for n := range readers {
				if !errors.Is(errs[n], failure) || failure == nil && lines[n] != 2 {
					t.Errorf("reader %d: %d lines, %v; want the error %v", n, lines[n], errs[n], failure)
				}
			}
			if x, err := s.index("job", strings.NewReader("one\ntwo\n"), bytes.NewReader(nil)); err != nil || x.lines != 2 {
				t.Errorf("afterwards: %d lines, %v", x.lines, err)
			}
		})
	}
}

// TestFewIndexesAtOnce opens the logs of many ended jobs at once: only some of them are read at a time.
func TestFewIndexesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, Keep{Jobs: 1})
		const most = 4
		goOn := make(chan struct{})
		var reads atomic.Int32
		var all sync.WaitGroup
		for n := range 3 * most {
			all.Go(func() {
				x, err := s.index(fmt.Sprint(n), countedFile{heldFile{strings.NewReader("one\n"), goOn}, &reads}, bytes.NewReader(nil))
				if err != nil || x.lines != 1 {
					t.Errorf("log %d: %d lines, %v", n, x.lines, err)
				}
			})
		}
		synctest.Wait()
		if n := reads.Load(); n != most {
			t.Errorf("%d logs are read at once, want %d", n, most)
		}
		close(goOn)
		all.Wait()
	})
}

// A countedFile is a log whose reads are counted as they begin.
type countedFile struct {
	heldFile
	reads *atomic.Int32
}

func (f countedFile) Read(p []byte) (int, error) {
	f.reads.Add(1)
	return f.heldFile.Read(p)
}

// ReadAt reads only whole lines, even if the file has more. Follow reads from any line.
func TestReaderText(t *testing.T) {
	s := newStore(t, Keep{Jobs: 1})
	made(t, s, "job", "one", "two")
	file, err := os.OpenFile(filepath.Join(s.folder, "job.log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString("half a li")
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	r := readerOf(t, s, "job")
	for _, test := range []struct {
		offset int64
		length int
		want   string
		err    error
	}{
		{0, 3, "one", nil}, {0, 8, "one\ntwo\n", nil}, {0, 9, "one\ntwo\n", io.EOF}, {4, 4, "two\n", nil},
		{7, 1, "\n", nil}, {7, 2, "\n", io.EOF}, {8, 1, "", io.EOF}, {100, 1, "", io.EOF},
	} {
		p := make([]byte, test.length)
		if n, err := r.ReadAt(p, test.offset); string(p[:n]) != test.want || err != test.err {
			t.Errorf("%d bytes at %d: %q, %v", test.length, test.offset, p[:n], err)
		}
	}
	var text strings.Builder
	if err := r.Follow(t.Context(), 1, &text); err != nil || text.String() != "two\n" {
		t.Errorf("from line 1: %q, %v", text.String(), err)
	}
	for line, want := range []int64{0, 4, 8, 8} {
		if got, err := r.Offset(int64(line)); got != want || err != nil {
			t.Errorf("line %d begins at %d, %v; want %d", line, got, err, want)
		}
	}
}

// A line may be longer than the distance of the marks that are made when an ended log is read.
func TestReaderOfLongLines(t *testing.T) {
	s := newStore(t, Keep{Jobs: 1})
	long := strings.Repeat("\xff", longest) // three times as long in the log
	made(t, s, "job", "one", long, "three")
	r := readerOf(t, s, "job")
	const begin, end = int64(len("one\n")), int64(len("one\n\n") + 3*longest)
	for line, want := range []int64{0, begin, end, end + int64(len("three\n"))} {
		if got, err := r.Offset(int64(line)); got != want || err != nil {
			t.Errorf("line %d begins at %d, %v; want %d", line, got, err, want)
		}
	}
	// A server that was killed has written the beginning of another such line.
	file, err := os.OpenFile(filepath.Join(s.folder, "job.log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString(long + long)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	s.read = nil
	if got := readerOf(t, s, "job").State(); got.Bytes != end+int64(len("three\n")) || got.Lines != 3 {
		t.Errorf("behind half a line: %+v", got)
	}
}

// The state of a log says whether more may follow.
func TestStateEnded(t *testing.T) {
	l := newLog(t)
	if reading(l).State().Ended {
		t.Error("a log that is being written has ended")
	}
	l.Complete()
	if !reading(l).State().Ended {
		t.Error("a complete log has not ended")
	}
	failed, _ := fullLog(t)
	failed.Printf("no room")
	if !reading(failed).State().Ended {
		t.Error("a log that cannot be written has not ended")
	}
}

// If a log's file is truncated, its readers return an error.
func TestTruncatedFiles(t *testing.T) {
	for file, want := range map[string]string{"job.log": "read a job's log: ", "job.events": "read a job's journal: "} {
		s := newStore(t, Keep{Jobs: 1})
		made(t, s, "job", "one", "two")
		r := readerOf(t, s, "job")
		if err := os.Truncate(filepath.Join(s.folder, file), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := messagesOf(func(take func([]schemas.Message) error) error { return r.FollowMessages(t.Context(), 1, take) }); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: FollowMessages: error %v", file, err)
		}
		if file == "job.events" {
			continue
		}
		_, offset := r.Offset(1)
		for call, err := range map[string]error{"Follow": r.Follow(t.Context(), 0, io.Discard), "Offset": offset} {
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%s: error %v", call, err)
			}
		}
	}
}

// If the journal cannot be written, the log returns the error.
func TestClosedJournal(t *testing.T) {
	l := newLog(t)
	if err := l.index.journal.file.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Stream(schemas.Stdout).Write([]byte("a\n")); !errors.Is(err, os.ErrClosed) || !strings.HasPrefix(err.Error(), "write a job's journal: ") {
		t.Errorf("Write: error %v", err)
	}
	l.Complete()
	_, err := messagesOf(func(take func([]schemas.Message) error) error { return reading(l).FollowMessages(t.Context(), 1, take) })
	for call, err := range map[string]error{"Event": l.Event(schemas.PushEvent{}), "FollowMessages": err} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: error %v", call, err)
		}
	}
	if m := l.Respond(schemas.Exited(0), nil); m.Seq != 0 {
		t.Errorf("the last message has the number %d", m.Seq)
	}
}

// A reader gets at most 1024 messages at once. If it returns an error, it gets no more.
func TestBatches(t *testing.T) {
	l := newLog(t)
	l.Respond(schemas.Accepted(), nil)
	write(t, l.Stream(schemas.Stdout), strings.Repeat("a line\n", 3000))
	l.Event(schemas.PhaseEvent{Phase: schemas.Build})
	l.Respond(schemas.Exited(0), nil)
	l.Complete()
	var sizes []int
	follow := func(from int64, take func([]schemas.Message) error) error {
		sizes = nil
		return reading(l).FollowMessages(t.Context(), from, func(m []schemas.Message) error {
			sizes = append(sizes, len(m))
			return take(m)
		})
	}
	for from, want := range map[int64][]int{1: {1, 1024, 1024, 954}, 2979: {25}, 3001: {3}, 3003: {1}, 3004: nil} {
		err := follow(from, func([]schemas.Message) error { return nil })
		if err != nil || !slices.Equal(sizes, want) {
			t.Errorf("from %d: batches of %v, want %v; %v", from, sizes, want, err)
		}
	}
	broken := errors.New("broken")
	for fails := range 4 {
		n := 0
		if err := follow(1, func([]schemas.Message) error {
			if n++; n > fails {
				return broken
			}
			return nil
		}); err != broken || n != fails+1 {
			t.Errorf("broken at batch %d: %d batches, error %v", fails, n, err)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := reading(l).FollowMessages(gone, 1, func([]schemas.Message) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("of a client that is gone: %v", err)
	}
}

// Nothing is added to a complete log.
func TestSealed(t *testing.T) {
	l := newLog(t)
	l.Respond(schemas.Accepted(), nil)
	l.Complete()
	if m := l.Respond(schemas.Exited(0), nil); m.Seq != 0 {
		t.Errorf("a message has the number %d", m.Seq)
	}
	if err := l.Event(schemas.PushEvent{}); err != nil {
		t.Error(err)
	}
	got, err := messagesOf(func(take func([]schemas.Message) error) error { return reading(l).FollowMessages(t.Context(), 1, take) })
	accepted := schemas.Accepted()
	if diff := cmp.Diff(expected([]schemas.Message{{Response: &accepted}}), got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}
