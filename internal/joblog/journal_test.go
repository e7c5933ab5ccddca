package joblog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/schemas"
)

func TestParseRecord(t *testing.T) {
	long := func(kind byte, number uint64, rest ...byte) []byte {
		return append(binary.AppendUvarint([]byte{kind | sameTime}, number), rest...)
	}
	endless := bytes.Repeat([]byte{0x80}, 11)
	for name, test := range map[string]struct {
		data   []byte
		want   record
		length int // negative: of what is no record
	}{
		"nothing":               {nil, record{}, 0},
		"one line":              {[]byte{stderrLines | sameTime | oneLine, 9}, record{kind: stderrLines, at: 1000, count: 1}, 1},
		"one line, later":       {[]byte{stdoutLines | oneLine, 10}, record{kind: stdoutLines, at: 1005, count: 1}, 2},
		"one line, earlier":     {[]byte{serverLines | oneLine, 9}, record{kind: serverLines, at: 995, count: 1}, 2},
		"many lines":            {long(stdoutLines, 300), record{kind: stdoutLines, at: 1000, count: 300}, 3},
		"many lines, later":     {[]byte{stdoutLines, 2, 7}, record{kind: stdoutLines, at: 1001, count: 7}, 3},
		"time cut short":        {[]byte{stdoutLines, 0x80}, record{}, 0},
		"no time":               {[]byte{stdoutLines}, record{}, 0},
		"no time of one line":   {[]byte{stdoutLines | oneLine}, record{}, 0},
		"time without end":      {append([]byte{stdoutLines}, endless...), record{}, -1},
		"count cut short":       {[]byte{stdoutLines | sameTime, 0x80}, record{}, 0},
		"count without end":     {append([]byte{stdoutLines | sameTime}, endless...), record{}, -1},
		"event":                 {long(eventRecord, 2, '{', '}', 9), record{kind: eventRecord, at: 1000, count: 1, data: []byte("{}")}, 4},
		"response":              {long(responseRecord, 2, '{', '}'), record{kind: responseRecord, at: 1000, count: 1, data: []byte("{}")}, 4},
		"event cut short":       {long(eventRecord, 2, '{'), record{}, 0},
		"longest event to come": {long(eventRecord, 8<<20), record{}, 0},
		"event too long":        {long(eventRecord, 8<<20+1), record{}, -1},
		"unknown kind":          {long(responseRecord+1, 2, '{', '}'), record{}, -1},
	} {
		got, length := parseRecord(test.data, 1000)
		if test.length <= 0 {
			got = record{}
		}
		if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(record{})); diff != "" || max(length, -1) != test.length {
			t.Errorf("%s: length %d, want %d (-want +got):\n%s", name, length, test.length, diff)
		}
	}
}

// An eighth of the journal's limit is reserved for events that are not lines of derivations.
func TestRoomOfEvents(t *testing.T) {
	j := journal{limit: 800, others: 600}
	for _, test := range []struct {
		bytes int
		minor bool
		want  bool
	}{{100, true, true}, {101, true, false}, {200, false, true}, {201, false, false}} {
		if got := j.hasRoom(test.bytes, test.minor); got != test.want {
			t.Errorf("%d bytes, minor %t: %t", test.bytes, test.minor, got)
		}
	}
}

// Records are written once a second, or when there are 32 KiB of them, and at the end.
func TestJournalIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t)
		length := int64(0)
		event := func(text int) {
			t.Helper()
			if err := l.Event(schemas.LineEvent{Text: strings.Repeat("x", text)}); err != nil {
				t.Fatal(err)
			}
		}
		check := func(what string, written bool) {
			t.Helper()
			info, err := os.Stat(l.index.journal.file.Name())
			if err != nil {
				t.Fatal(err)
			}
			if (info.Size() > length) != written || info.Size() > l.index.journal.size() {
				t.Errorf("%s: the file has %d of %d bytes, it had %d before", what, info.Size(), l.index.journal.size(), length)
			}
			length = info.Size()
		}
		event(1)
		check("the first event", true)
		event(1)
		time.Sleep(time.Second - time.Nanosecond)
		event(1)
		check("in the same second", false)
		time.Sleep(time.Nanosecond)
		event(1)
		check("a second later", true)
		event(16 << 10)
		check("16 KiB", false)
		event(16 << 10)
		check("32 KiB", true)
		event(1)
		l.Complete()
		check("the end", true)
		if length != l.index.journal.size() {
			t.Errorf("the file has %d of %d bytes in the end", length, l.index.journal.size())
		}
	})
}

// A reader that has read everything waits a little, so that a burst of lines is one write.
func TestBurstIsOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t)
		var writes []string
		begun := time.Now()
		var came []time.Duration
		result := follow(t.Context(), l, writerFunc(func(p []byte) (int, error) {
			writes, came = append(writes, string(p)), append(came, time.Since(begun))
			return len(p), nil
		}))
		synctest.Wait()
		s := l.Stream(schemas.Stdout)
		write(t, s, "a\n")
		time.Sleep(time.Millisecond)
		write(t, s, "b\n")
		time.Sleep(time.Second)
		write(t, s, "c\n")
		time.Sleep(time.Second)
		l.Complete()
		if err := <-result; err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{"a\nb\n", "c\n"}, writes); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
		}
		if want := []time.Duration{2 * time.Millisecond, 1003 * time.Millisecond}; !slices.Equal(came, want) {
			t.Errorf("they came after %v, want %v", came, want)
		}
	})
}

// A reader waits for more only when it has read everything, the log goes on, and little has come: it reads at once what
// is there already, and what fills its buffer. It waits behind a long log, too.
func TestNoWaitForMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t)
		s := l.Stream(schemas.Stdout)
		full := strings.Repeat("x", followBuffer-1) + "\n"
		write(t, s, "first\n")
		begun := time.Now()
		var came []time.Duration
		result := follow(t.Context(), l, writerFunc(func(p []byte) (int, error) {
			came = append(came, time.Since(begun))
			return len(p), nil
		}))
		synctest.Wait()
		write(t, s, full)
		synctest.Wait()
		write(t, s, "small\n")
		time.Sleep(time.Second)
		l.Complete()
		if err := <-result; err != nil {
			t.Error(err)
		}
		if want := []time.Duration{0, 0, 2 * time.Millisecond}; !slices.Equal(came, want) {
			t.Errorf("they came after %v, want %v", came, want)
		}
		came, begun = nil, time.Now()
		if err := reading(l).Follow(t.Context(), 2, writerFunc(func(p []byte) (int, error) {
			came = append(came, time.Since(begun))
			return len(p), nil
		})); err != nil || !slices.Equal(came, []time.Duration{0}) {
			t.Errorf("of an ended log, they came after %v; %v", came, err)
		}
	})
}

// The state of the logs of 256 derivations is kept. Then the oldest is removed.
func TestDerivationStreams(t *testing.T) {
	var s derivationStreams
	names := make([]string, 257)
	for i := range names {
		names[i] = strings.Repeat("x", i)
		if lines := s.of(names[i], nil); lines != s.of(names[i], nil) {
			t.Fatalf("the state of log %d is lost", i)
		}
	}
	if len(s.known) != 256 || s.known[names[0]] != nil || s.known[names[1]] == nil || s.known[names[256]] == nil {
		t.Errorf("the state of %d logs is kept", len(s.known))
	}
}

// If a server was killed, the end of a log's journal, the end of its last line, or the whole journal may be missing. The
// rest is read.
func TestJournalOfAKilledServer(t *testing.T) {
	folder := t.TempDir()
	store, err := Open(folder, Keep{Jobs: 10}, 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	l, err := store.Create("job", nil)
	if err != nil {
		t.Fatal(err)
	}
	l.Respond(schemas.Accepted(), nil)
	for range 8 {
		write(t, l.Stream(schemas.Stderr), "a\nb\n")
		l.Event(schemas.PhaseEvent{Phase: schemas.Build})
	}
	l.Complete()
	l.Close()
	journal, err := os.ReadFile(filepath.Join(folder, "job.events"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(folder, "job.log"))
	if err != nil {
		t.Fatal(err)
	}
	for size := range len(journal) + 1 {
		name := fmt.Sprint("cut", size)
		err := errors.Join(os.WriteFile(filepath.Join(folder, name+".log"), append(log, "half a li"...), 0o600),
			os.WriteFile(filepath.Join(folder, name+".events"), journal[:size], 0o600))
		if size == 0 {
			err = errors.Join(err, os.Remove(filepath.Join(folder, name+".events")))
		}
		if err != nil {
			t.Fatal(err)
		}
		r, err := store.Reader(name)
		if err != nil {
			t.Fatal(err)
		}
		seq, lines := int64(0), 0
		err = r.FollowMessages(t.Context(), 1, func(batch []schemas.Message) error {
			for _, m := range batch {
				if seq++; m.Seq != seq {
					t.Errorf("message %d comes as number %d", m.Seq, seq)
				}
				if m.Stream != "" {
					if want := "ab"[lines%2 : lines%2+1]; string(m.Line) != want {
						t.Errorf("line %d is %q", lines, m.Line)
					}
					lines++
				}
			}
			return nil
		})
		if state := r.State(); err != nil || lines != 16 || state.Lines != 16 || state.Bytes != int64(len(log)) || state.Messages != seq {
			t.Errorf("%d bytes of the journal: %d lines, %d messages, %+v, %v", size, lines, seq, state, err)
		}
		r.Close()
	}
}

// If the file is not a journal, a reader returns an error, and does not read without an end.
func FuzzJournal(f *testing.F) {
	f.Add([]byte{eventRecord | sameTime, 2, '{', '}', stdoutLines | oneLine, 2})
	f.Add([]byte{responseRecord, 2, 2, '{', '}', stderrLines, 1, 3})
	f.Add([]byte{7})
	f.Fuzz(func(t *testing.T, journal []byte) {
		x := newIndex()
		x.sealed = true
		text := strings.NewReader("a\nb\nc\nd\n")
		if err := errors.Join(x.readLines(text), x.readRecords(bytes.NewReader(journal))); err != nil {
			t.Fatal(err)
		}
		r := &Reader{index: x, file: text, journal: bytes.NewReader(journal)}
		lines := 0
		err := r.FollowMessages(t.Context(), 1, func(batch []schemas.Message) error {
			for _, m := range batch {
				if m.Stream != "" {
					lines++
				}
			}
			return nil
		})
		if err == nil && lines != 4 {
			t.Errorf("%d lines, want 4", lines)
		}
	})
}

// The journal of a log that is cut has the streams of the remaining lines. Its events stop at the limit, and lines of
// derivations stop before that.
func TestCutJournal(t *testing.T) {
	const limit = 256 << 10
	l := limitedLog(t, limit)
	l.Respond(schemas.Accepted(), nil)
	names := []schemas.Stream{schemas.Stdout, schemas.Stderr, schemas.Server}
	streams := map[schemas.Stream]*Stream{}
	for _, name := range names {
		streams[name] = l.Stream(name)
	}
	for i := range 8_000 {
		name := names[i/3%3]
		write(t, streams[name], fmt.Sprintf("%s %060d\n", name, i))
		l.Event(schemas.LineEvent{Derivation: "a.drv", Text: strings.Repeat("x", 100)})
		if i%10 == 0 {
			l.Event(schemas.PhaseEvent{Phase: schemas.Build})
		}
	}
	l.Respond(schemas.Exited(0), schemas.VerdictEvent{})
	l.Complete()
	seq, notices, counts := int64(0), 0, map[string]int{}
	var text bytes.Buffer
	err := reading(l).FollowMessages(t.Context(), 1, func(batch []schemas.Message) error {
		for _, m := range batch {
			if seq++; m.Seq != seq {
				t.Fatalf("message %d comes as number %d", m.Seq, seq)
			}
			switch {
			case m.Stream != "":
				text.Write(append(m.Line, '\n'))
				if strings.HasPrefix(string(m.Line), "iglu: ") {
					notices++
				} else if !strings.HasPrefix(string(m.Line), string(m.Stream)+" ") {
					t.Errorf("a line of %s is %s", m.Stream, m.Line)
				}
			case m.Response == nil:
				e, err := schemas.ParseEvent(m.Event)
				if err != nil {
					return err
				}
				counts[fmt.Sprintf("%T", e)]++
			case m.Last() != (m.Seq == l.index.journal.end.messages):
				t.Errorf("message %d of %d is %+v", m.Seq, l.index.journal.end.messages, m.Response)
			}
		}
		return nil
	})
	if err != nil || notices != 2 {
		t.Errorf("%d notices, %v", notices, err)
	}
	var plain bytes.Buffer
	if err := reading(l).Follow(t.Context(), 0, &plain); err != nil || !bytes.Equal(plain.Bytes(), text.Bytes()) {
		t.Errorf("the messages have %d bytes of text, the log %d; %v", text.Len(), plain.Len(), err)
	}
	if l.index.journal.others > limit+1000 || counts["schemas.LineEvent"] == 0 || counts["schemas.PhaseEvent"] < 500 {
		t.Errorf("%d bytes of events: %v", l.index.journal.others, counts)
	}
}
