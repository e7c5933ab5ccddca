package joblog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/schemas"
)

// end writes the log of a job, closes it and sets its age.
func end(t *testing.T, s *Store, job string, age time.Duration) {
	t.Helper()
	l, err := s.Create(job, nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, l.Stream(schemas.Stdout), "log of "+job+"\n")
	then := time.Now().Add(-age)
	if err := os.Chtimes(l.file.Name(), then, then); err != nil {
		t.Fatal(err)
	}
	l.Complete()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, folder string) []string {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// TestFolderRemoved removes the whole folder while the store is open, as somebody may do to make room. The next job has a log.
func TestFolderRemoved(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "logs")
	s, err := Open(folder, Keep{Jobs: 3}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	end(t, s, "a", 0)
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	if err := s.Prune(); err != nil {
		t.Error(err)
	}
	end(t, s, "b", 0)
	if diff := cmp.Diff([]string{"b.events", "b.log"}, names(t, folder)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestClockWasAhead has logs of a time when the clock was ahead. The log of a job that ends now is newer than these, and they
// become old like others.
func TestClockWasAhead(t *testing.T) {
	folder := t.TempDir()
	s, err := Open(folder, Keep{Jobs: 3, Age: time.Hour}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	end(t, s, "a", -20*time.Hour)
	end(t, s, "b", -30*time.Hour)
	end(t, s, "c", -10*time.Hour)
	end(t, s, "d", 0)
	if diff := cmp.Diff([]string{"b.events", "b.log", "c.events", "c.log", "d.events", "d.log"}, names(t, folder)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, job := range []string{"b", "c"} {
		if info, err := os.Stat(filepath.Join(folder, job+extension)); err != nil || info.ModTime().After(time.Now()) {
			t.Errorf("the log of %s is of %v (%v)", job, info.ModTime(), err)
		}
	}
}

// TestClocksOfSeveralLogs has several logs of a time when the clock was ahead, as a server finds them that starts when the clock
// is right again. They stay in their order, after the log of a job that has ended since.
func TestClocksOfSeveralLogs(t *testing.T) {
	folder := t.TempDir()
	s, err := Open(folder, Keep{Jobs: 10}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	ahead := map[string]time.Duration{"a": 10 * time.Hour, "b": 20 * time.Hour, "c": 30 * time.Hour, "d": 0}
	for job := range ahead {
		end(t, s, job, 0)
	}
	for job, ahead := range ahead { // after the end of all, which corrects the times of those before
		then := time.Now().Add(ahead)
		if err := os.Chtimes(filepath.Join(folder, job+extension), then, then); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(folder, Keep{Jobs: 2}, 1<<20); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"c.events", "c.log", "d.events", "d.log"}, names(t, folder)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestKeep(t *testing.T) {
	const day = 24 * time.Hour
	tests := []struct {
		keep Keep
		want []string
	}{
		{Keep{Jobs: 0}, []string{"other"}},
		{Keep{Jobs: 2}, []string{"b.events", "b.log", "d.events", "d.log", "other"}},
		{Keep{Jobs: 100}, []string{"a.events", "a.log", "b.events", "b.log", "c.events", "c.log", "d.events", "d.log", "other"}},
		{Keep{Jobs: 100, Age: 5 * day}, []string{"a.events", "a.log", "b.events", "b.log", "d.events", "d.log", "other"}},
		{Keep{Jobs: 1, Age: 5 * day}, []string{"b.events", "b.log", "other"}},
	}
	for _, test := range tests {
		folder := filepath.Join(t.TempDir(), "made", "by", "Open")
		s, err := Open(folder, test.keep, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "other"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for job, age := range map[string]time.Duration{"a": 3 * day, "b": time.Minute, "c": 7 * day, "d": 2 * day} {
			end(t, s, job, age)
		}
		if diff := cmp.Diff(test.want, names(t, folder)); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", test.keep, diff)
		}
	}
}

// The limit Keep.Bytes is for all logs together, including journals and logs that are being written. The latest log is
// always kept.
func TestKeepBytes(t *testing.T) {
	const size = 10_000
	for limit, want := range map[int64][]string{
		0:              {"a", "b", "c"},
		5*size + 3_000: {"a", "b", "c"},
		5*size - 3_000: {"a", "b"},
		4*size - 3_000: {"a"},
		1:              {"a"},
	} {
		folder := t.TempDir()
		s, err := Open(folder, Keep{Jobs: 100}, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		write := func(job string) *Log {
			l, err := s.Create(job, redact.New())
			if err != nil {
				t.Fatal(err)
			}
			l.Printf("%s", strings.Repeat("x", size/2))
			l.Event(schemas.LineEvent{Derivation: "d", Text: strings.Repeat("x", size/2)})
			l.index.flush(true)
			return l
		}
		for job, age := range map[string]time.Duration{"a": time.Minute, "b": time.Hour, "c": 2 * time.Hour} {
			l := write(job)
			l.Complete()
			l.Close()
			then := time.Now().Add(-age)
			if err := os.Chtimes(filepath.Join(folder, job+extension), then, then); err != nil {
				t.Fatal(err)
			}
		}
		running, second := write("running"), write("second")
		s.keep.Bytes = limit
		if err := s.Prune(); err != nil {
			t.Fatal(err)
		}
		var kept []string
		for _, job := range []string{"a", "b", "c"} {
			if s.Has(job) {
				kept = append(kept, job)
			}
		}
		if diff := cmp.Diff(want, kept); diff != "" || !s.Has("running") {
			t.Errorf("%d bytes (-want +got):\n%s", limit, diff)
		}
		running.Close()
		second.Close()
	}
}

// Logs that take all that Keep.Bytes allows, or are as old as Keep.Age allows, are kept.
func TestKeepAtTheLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, Keep{Jobs: 100, Age: time.Hour})
		end(t, s, "old", time.Hour)
		end(t, s, "new", 0)
		check := func(what string, old bool) {
			t.Helper()
			if err := s.Prune(); err != nil || s.Has("old") != old || !s.Has("new") {
				t.Errorf("%s: %v, the old log is there: %t", what, err, s.Has("old"))
			}
		}
		for _, name := range names(t, s.folder) {
			s.keep.Bytes += s.sizeOf(name)
		}
		check("at both limits", true)
		s.keep.Bytes--
		check("a byte too much", false)
		s.keep.Bytes = 0
		end(t, s, "old", time.Hour)
		time.Sleep(time.Nanosecond)
		check("too old", false)
	})
}

// A log that is being written does not count as one of the kept logs, and is not removed.
func TestCurrentLogStays(t *testing.T) {
	folder := t.TempDir()
	s, err := Open(folder, Keep{Jobs: 0}, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	current, err := s.Create("current", nil)
	if err != nil {
		t.Fatal(err)
	}
	end(t, s, "another", 0)
	if diff := cmp.Diff([]string{"current.events", "current.log"}, names(t, folder)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := s.Create("current", nil); err == nil {
		t.Error("two logs of one name")
	}
	current.Close()
	if got := names(t, folder); len(got) != 0 {
		t.Errorf("left is %v", got)
	}
}

func TestOpenRemovesWhatAnEarlierLifeLeft(t *testing.T) {
	folder := t.TempDir()
	for n := range 3 {
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprint(n, extension)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(folder, Keep{Jobs: 1}, 1<<30); err != nil {
		t.Fatal(err)
	}
	if got := names(t, folder); len(got) != 1 {
		t.Errorf("left is %v", got)
	}
	if _, err := Open(filepath.Join(folder, names(t, folder)[0]), Keep{}, 1<<30); err == nil {
		t.Error("a file was taken for a folder")
	}
}

// TestCut writes logs of many sizes around the limit. A log that is too large keeps whole lines of its beginning and its
// end, and is never larger than the limit. A smaller log is complete.
func TestCut(t *testing.T) {
	const limit = 256 << 10
	for _, lines := range []int{10, 2900, 2983, 2984, 2985, 2990, 3000, 3800, 4500, 20000, 50000} {
		for _, chunk := range []int{1, 7, 1000} {
			if lines/chunk > 5000 {
				continue // it takes long, and shows no more than fewer lines
			}
			got := cutLog(t, limit, lines, chunk)
			if len(got) > limit {
				t.Errorf("%d lines: %d bytes", lines, len(got))
			}
			checkCut(t, lines, string(got))
		}
	}
}

// nth is the n-th line of a log, 65 bytes with its end.
func nth(n int) string { return fmt.Sprintf("%064d\n", n) }

func cutLog(t *testing.T, limit int64, lines, chunk int) []byte {
	t.Helper()
	l := limitedLog(t, limit)
	stream := l.Stream(schemas.Stdout)
	for n := 0; n < lines; n += chunk {
		var part strings.Builder
		for m := n; m < min(n+chunk, lines); m++ {
			part.WriteString(nth(m))
		}
		write(t, stream, part.String())
	}
	l.Complete()
	var got bytes.Buffer
	if err := reading(l).Follow(t.Context(), 0, &got); err != nil {
		t.Fatal(err)
	}
	return got.Bytes()
}

// checkCut checks that a log has its first lines, then two notices if lines are missing, and then its last lines.
func checkCut(t *testing.T, lines int, got string) {
	t.Helper()
	next, notices, left := 0, 0, 0
	for line := range strings.Lines(got) {
		switch {
		case line == "iglu: the log is cut here, at its limit of 262144 bytes; the job goes on, and the log's last lines follow when it ends\n":
			notices++
		case strings.HasPrefix(line, "iglu: "):
			if n, _ := fmt.Sscanf(line, "iglu: %d bytes of the log are left out here", &left); n != 1 || left%65 != 0 {
				t.Errorf("%d lines: %q", lines, line)
			}
			next += left / 65
		case line != nth(next):
			t.Fatalf("%d lines: line %d is %q", lines, next, line)
		default:
			next++
		}
	}
	if next != lines || notices > 1 || (left > 0 && notices == 0) {
		t.Errorf("%d lines: %d came, %d notices, %d bytes left out", lines, next, notices, left)
	}
}

// If the last line alone is longer than the kept end of the log, its beginning is removed.
func TestCutLongLine(t *testing.T) {
	for _, last := range []string{"end\n", "ends\n", "ended\n"} { // so that the limit is within a rune, or at its beginning
		l := limitedLog(t, 256<<10)
		write(t, l.Stream(schemas.Stdout), strings.Repeat("x\n", 200<<10), strings.Repeat("日本", 100<<10)+last)
		l.Complete()
		var got bytes.Buffer
		if err := reading(l).Follow(t.Context(), 0, &got); err != nil {
			t.Fatal(err)
		}
		if !bytes.HasSuffix(got.Bytes(), []byte("日本日本"+last)) || !utf8.Valid(got.Bytes()) || got.Len() > 256<<10 {
			t.Errorf("%d bytes, valid UTF-8: %t, the last are %q", got.Len(), utf8.Valid(got.Bytes()), got.Bytes()[got.Len()-20:])
		}
	}
}

// A log of just so many bytes that its end still has room is complete. With one byte more, it is cut.
func TestCutAtTheLimit(t *testing.T) {
	for more, want := range []int{1, 2} {
		l := limitedLog(t, cutReserve+1000)
		write(t, l.Stream(schemas.Stdout), strings.Repeat("x", 999+more)+"\n")
		if got := sealed(t, l); len(got) != want || len(got[want-1]) != 999+more {
			t.Errorf("%d bytes more: %d lines, want %d: %.100q", more, len(got), want, got)
		}
	}
}

// While a log is cut, no more than twice its kept end is in memory, and the last chunk.
func TestMemoryOfCut(t *testing.T) {
	l := limitedLog(t, 256<<10)
	s := l.Stream(schemas.Stdout)
	for range 20 {
		for _, count := range []int{1, 1000, 5000} {
			chunk := strings.Repeat(nth(0), count)
			write(t, s, chunk)
			if l.cut != nil && len(l.cut.tail) > 2*keptTail+len(chunk) {
				t.Fatalf("%d bytes are in memory", len(l.cut.tail))
			}
		}
	}
}

// TestFollowFromALine starts readers at many lines, including the lines at the marks and next to them.
func TestFollowFromALine(t *testing.T) {
	const lines = 40_000 // 2.6 MB, some marks
	l := newLog(t)
	stream := l.Stream(schemas.Stdout)
	for n := 0; n < lines; n += 5 {
		write(t, stream, nth(n)+nth(n+1)+nth(n+2)+nth(n+3)+nth(n+4))
	}
	l.Complete()
	if len(l.index.marks) < 3 {
		t.Errorf("%d marks are too few to be of use", len(l.index.marks))
	}
	for from := int64(0); from <= lines+1; from += 1 + from/13 {
		var got countingWriter
		if err := reading(l).Follow(t.Context(), from, &got); err != nil {
			t.Fatal(err)
		}
		if want := max(0, lines-from); got.lines != want || (want > 0 && got.first != nth(int(from))) {
			t.Errorf("from line %d: %d lines, the first is %q", from, got.lines, got.first)
		}
	}
}

// TestFollowFromALaterLine starts a reader at a line that does not exist yet. It gets that line, and none of those before it that
// come meanwhile.
func TestFollowFromALaterLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t)
		stream := l.Stream(schemas.Stdout)
		write(t, stream, nth(0)+nth(1))
		r := newReader()
		result := make(chan error, 1)
		go func() { result <- reading(l).Follow(t.Context(), 4, r) }()
		synctest.Wait()
		write(t, stream, nth(2))
		time.Sleep(time.Second)
		write(t, stream, nth(3)+nth(4)+nth(5))
		l.Complete()
		if err := <-result; err != nil || r.text.String() != nth(4)+nth(5) || r.torn > 0 {
			t.Errorf("got %q and error %v; %d writes were not whole lines", r.text.String(), err, r.torn)
		}
	})
}

type countingWriter struct {
	lines int64
	first string
}

func (w *countingWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, errors.New("nothing is written")
	}
	if w.lines == 0 {
		w.first = string(p[:bytes.IndexByte(p, '\n')+1])
	}
	w.lines += int64(bytes.Count(p, newline))
	return len(p), nil
}

// TestHas asks for a log that there is, for one that there is not, and for one that cannot be looked for. Only of the
// second it is certain that it is gone.
func TestHas(t *testing.T) {
	folder := t.TempDir()
	s, err := Open(folder, Keep{Jobs: 10}, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	end(t, s, "there", 0)
	loop := filepath.Join(folder, "unknown"+extension)
	if err := os.Symlink(loop, loop); err != nil { // stands for a disk that fails
		t.Fatal(err)
	}
	for job, want := range map[string]bool{"there": true, "gone": false, "unknown": true} {
		if got := s.Has(job); got != want {
			t.Errorf("%s: %t", job, got)
		}
	}
}
