package joblog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/schemas"
)

// messagesOf collects what follow gives until it ends, each message as a client reads it.
func messagesOf(follow func(take func([]schemas.Message) error) error) (messages []string, err error) {
	err = follow(func(batch []schemas.Message) error {
		for _, m := range batch {
			m.Time = time.Time{} // which differs
			messages = append(messages, string(schemas.Document.AppendMessage(nil, &m)))
		}
		return nil
	})
	return messages, err
}

// wantMessages checks what a reader got.
func wantMessages(t *testing.T, reader string, want, got []string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", reader, err)
	}
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) || want[i] != got[i] {
			t.Fatalf("%s: %d messages, want %d; from %d on they differ (-want +got):\n%.2000s", reader, len(got), len(want), i,
				cmp.Diff(want[min(i, len(want)):min(i+3, len(want))], got[min(i, len(got)):min(i+3, len(got))]))
		}
	}
}

// expected returns messages as they should be read, with their numbers.
func expected(all []schemas.Message) (want []string) {
	for i, m := range all {
		m.Seq = int64(i + 1)
		want = append(want, string(schemas.Document.AppendMessage(nil, &m)))
	}
	return want
}

// talk appends a first message, a random mix of short and long lines of each stream and of events, and a last message. It
// returns these messages.
func talk(t *testing.T, l *Log, random *rand.Rand, steps int) []string {
	t.Helper()
	streams := map[schemas.Stream]*Stream{}
	for _, name := range []schemas.Stream{schemas.Stdout, schemas.Stderr, schemas.Server} {
		streams[name] = l.Stream(name)
	}
	long := schemas.LineEvent{Derivation: "a.drv", Text: strings.Repeat("x", 3*flushSize)}
	accepted, exited := schemas.Accepted(), schemas.Exited(0)
	verdict := schemas.VerdictEvent{End: "exited"}
	all := []schemas.Message{{Response: &accepted}, {Event: schemas.AppendEvent(nil, long)}}
	l.Respond(accepted, nil)
	if err := l.Event(long); err != nil {
		t.Fatal(err)
	}
	for range steps {
		if e := someEvent(random); e != nil {
			if err := l.Event(e); err != nil {
				t.Fatal(err)
			}
			all = append(all, schemas.Message{Event: schemas.AppendEvent(nil, e)})
			continue
		}
		for name, stream := range streams {
			count := 1
			if random.IntN(5) == 0 {
				count = random.IntN(1000)
			}
			var text strings.Builder
			for range count {
				line := strings.Repeat(string(rune('a'+random.IntN(26))), random.IntN(100))
				if random.IntN(200) == 0 {
					line = strings.Repeat("long ", followBuffer/4)
				}
				fmt.Fprintln(&text, line)
				all = append(all, schemas.Message{Stream: name, Line: []byte(line)})
			}
			write(t, stream, text.String())
		}
	}
	last := l.Respond(exited, verdict)
	all = append(all, schemas.Message{Response: &exited, Event: schemas.AppendEvent(nil, verdict)})
	if last.Seq != int64(len(all)) {
		t.Errorf("the last message has the number %d, want %d", last.Seq, len(all))
	}
	return expected(all)
}

// someEvent returns an event or, as often, nil; now and then a long one.
func someEvent(random *rand.Rand) schemas.Event {
	switch random.IntN(9) {
	case 0:
		return schemas.PhaseEvent{Phase: schemas.Build}
	case 1:
		return schemas.PushEvent{Bytes: random.Int64()}
	case 2:
		length := random.IntN(200)
		if random.IntN(4) == 0 {
			length = 3 * flushSize
		}
		return schemas.LineEvent{Derivation: "/nix/store/a.drv", Text: strings.Repeat("x", length)}
	case 3:
		return schemas.DerivationEvent{Derivation: "b.drv", State: schemas.DerivationFailed, Log: []string{"1", "2"}}
	case 4:
		return schemas.DerivationEvent{Derivation: "b.drv", State: schemas.DerivationBuilt}
	}
	return nil
}

// TestFollowMessages follows a log while it is written, and reads it from many positions after it is complete, after it
// is closed, and only from its files.
func TestFollowMessages(t *testing.T) { synctest.Test(t, testFollowMessages) }

func testFollowMessages(t *testing.T) {
	folder := t.TempDir()
	store, err := Open(folder, Keep{Jobs: 10}, 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	l, err := store.Create("job", nil)
	if err != nil {
		t.Fatal(err)
	}
	type result struct {
		messages []string
		err      error
	}
	results := make(chan result)
	reader := func() *Reader {
		t.Helper()
		r, err := store.Reader("job")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return r
	}
	const watchers = 4
	for range watchers {
		r := reader()
		go func() {
			messages, err := messagesOf(func(take func([]schemas.Message) error) error {
				return r.FollowMessages(context.Background(), 1, take)
			})
			results <- result{messages, err}
		}()
	}
	want := talk(t, l, random, 60)
	checkMarks(t, l.index)
	beside := reader()
	l.Complete()
	for range watchers {
		got := receive(t, results, "end of a watcher")
		wantMessages(t, "watcher", want, got.messages, got.err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(folder, Keep{Jobs: 10}, 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := again.Reader("job")
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	checkMarks(t, fresh.index)
	for name, r := range map[string]*Reader{"open since it ran": beside, "after its end": reader(), "another life": fresh} {
		for from := 1; from <= len(want)+1; from += 1 + random.IntN(len(want)/4) {
			got, err := messagesOf(func(take func([]schemas.Message) error) error {
				return r.FollowMessages(t.Context(), int64(from), take)
			})
			wantMessages(t, fmt.Sprintf("%s, from %d", name, from), want[from-1:], got, err)
		}
		checkText(t, r, want)
	}
}

// checkMarks checks that an index has enough marks to be of use, and not so many that they take much memory.
func checkMarks(t *testing.T, x *index) {
	t.Helper()
	if n := len(x.marks); n < 2 || int64(n) > x.size/markDistance+2 {
		t.Errorf("%d marks in %d bytes of the log", n, x.size)
	}
	if n := len(x.journal.marks); n < 2 || int64(n) > x.journal.size()/journalMarkDistance+2 {
		t.Errorf("%d marks in %d bytes of the journal", n, x.journal.size())
	}
	for _, m := range x.marks {
		if got := x.before(m.line); got != m {
			t.Errorf("a reader from line %d on begins at %+v, want %+v", m.line, got, m)
		}
	}
}

// checkText compares a reader's text and offsets of lines with the lines among messages.
func checkText(t *testing.T, r *Reader, messages []string) {
	t.Helper()
	var want bytes.Buffer
	lines := int64(0)
	for _, message := range messages {
		if m, err := schemas.ParseMessage([]byte(message)); err != nil {
			t.Fatal(err)
		} else if m.Stream != "" {
			if lines%997 == 0 {
				if offset, err := r.Offset(lines); err != nil || offset != int64(want.Len()) {
					t.Fatalf("line %d begins at %d, %v; want %d", lines, offset, err, want.Len())
				}
			}
			want.Write(append(m.Line, '\n'))
			lines++
		}
	}
	state := State{Bytes: int64(want.Len()), Lines: lines, Messages: int64(len(messages)), Ended: true}
	if diff := cmp.Diff(state, r.State()); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
	text, err := io.ReadAll(io.NewSectionReader(r, 0, 1<<40))
	if err != nil || !bytes.Equal(text, want.Bytes()) {
		t.Errorf("the text has %d bytes, want %d; %v", len(text), want.Len(), err)
	}
	if end, err := r.Offset(lines + 10); err != nil || end != state.Bytes {
		t.Errorf("a line that is not there begins at %d, %v", end, err)
	}
}

// A reader gets a single message immediately, and also a single event.
func TestEachMessageAtOnce(t *testing.T) { synctest.Test(t, testEachMessageAtOnce) }

func testEachMessageAtOnce(t *testing.T) {
	l := newLog(t)
	got := make(chan int64, 10)
	result := make(chan error, 1)
	go func() {
		result <- reading(l).FollowMessages(context.Background(), 2, func(batch []schemas.Message) error {
			for _, m := range batch {
				got <- m.Seq
			}
			return nil
		})
	}()
	l.Respond(schemas.Accepted(), nil)
	for seq := int64(2); seq < 10; seq += 2 {
		if err := l.Event(schemas.PhaseEvent{Phase: schemas.Build}); err != nil {
			t.Fatal(err)
		}
		if event := receive(t, got, "event"); event != seq {
			t.Errorf("message %d came, want %d", event, seq)
		}
		write(t, l.Stream(schemas.Stderr), "line\n")
		if line := receive(t, got, "line"); line != seq+1 {
			t.Errorf("message %d came, want %d", line, seq+1)
		}
	}
	l.Complete()
	if err := receive(t, result, "end of the follower"); err != nil {
		t.Error(err)
	}
}

func TestEventsLoseSecrets(t *testing.T) {
	store, err := Open(t.TempDir(), Keep{}, 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	const secret = "correct-horse-battery"
	l, err := store.Create("job", redact.New(secret))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.Respond(schemas.Unable(secret, secret), schemas.VerdictEvent{Commit: secret, Image: secret})
	for _, e := range []schemas.Event{
		schemas.PlanEvent{Derivations: []schemas.PlannedDerivation{{Derivation: secret}, {Derivation: "other", Needs: []int{0}}}},
		schemas.DerivationEvent{Derivation: secret, Phase: secret, Log: []string{"a", secret, secret}},
		schemas.LineEvent{Derivation: secret, Text: "a " + secret},
		schemas.LineEvent{Derivation: "other", Text: secret[:10]},
	} {
		if err := l.Event(e); err != nil {
			t.Fatal(err)
		}
	}
	l.Complete()
	messages, err := messagesOf(func(take func([]schemas.Message) error) error { return reading(l).FollowMessages(t.Context(), 1, take) })
	text := strings.Join(messages, "\n")
	if masks := strings.Count(text, "***"); err != nil || strings.Contains(text, secret) || masks != 11 || !strings.Contains(text, secret[:10]) {
		t.Errorf("%d masks, %v in:\n%s", masks, err, text)
	}
}

func TestNoReader(t *testing.T) {
	folder := t.TempDir()
	store, err := Open(filepath.Join(folder, "logs"), Keep{Jobs: 1}, 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "outside.log"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, job := range []string{"", ".", "..", "none", "../outside", "/etc/passwd", "a/b", ".hidden", "a\x00b", strings.Repeat("a", 300)} {
		if r, err := store.Reader(job); !errors.Is(err, fs.ErrNotExist) || r != nil {
			t.Errorf("%q: %v, %v", job, r, err)
		}
	}
}

// A reader can read on after its log was removed.
func TestReaderOfARemovedLog(t *testing.T) {
	store, err := Open(t.TempDir(), Keep{Jobs: 0}, 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	l, err := store.Create("job", nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := store.Reader("job")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	want := talk(t, l, rand.New(rand.NewPCG(3, 4)), 20)
	l.Complete()
	l.Close()
	if left := names(t, store.folder); len(left) > 0 {
		t.Errorf("left is %v", left)
	}
	got, err := messagesOf(func(take func([]schemas.Message) error) error { return r.FollowMessages(t.Context(), 1, take) })
	wantMessages(t, "reader", want, got, err)
}

// The longest event that a journal takes is read back, also from its file alone. A longer one is left out.
func TestLongestEvent(t *testing.T) {
	s := newStore(t, Keep{Jobs: 1})
	l, err := s.Create("job", nil)
	if err != nil {
		t.Fatal(err)
	}
	event := func(phase int) schemas.Event {
		return schemas.DerivationEvent{Derivation: "a", State: schemas.DerivationBuilding, Phase: strings.Repeat("x", phase)}
	}
	around := len(schemas.AppendEvent(nil, event(1))) - 1
	for _, length := range []int{maxRecord, maxRecord + 1, around + 1} {
		if err := l.Event(event(length - around)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string) {
		t.Helper()
		var lengths []int
		err := readerOf(t, s, "job").FollowEvents(t.Context(), 1, func(messages []schemas.Message) error {
			for _, m := range messages {
				lengths = append(lengths, len(m.Event))
			}
			return nil
		})
		if diff := cmp.Diff([]int{maxRecord, around + 1}, lengths); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", when, err, diff)
		}
	}
	l.Complete()
	check("before it is closed")
	l.Close()
	check("read again")
}

// TestEventsAreNotCopied reads many events. That allocates a few buffers, and nothing for each event: a page of a job with
// many lines of derivations has that many.
func TestEventsAreNotCopied(t *testing.T) {
	const events = 5000
	l := newLog(t)
	for range events {
		if err := l.Event(schemas.LineEvent{Derivation: "a", Text: "a line"}); err != nil {
			t.Fatal(err)
		}
	}
	l.Complete()
	read := 0
	allocated := testing.AllocsPerRun(1, func() {
		if err := reading(l).FollowEvents(t.Context(), 1, func(messages []schemas.Message) error {
			read += len(messages)
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
	if read != 2*events || allocated > events/10 {
		t.Errorf("%d events read, with %v allocations", read/2, allocated)
	}
}

// A countingContext counts how often a reader looks whether it has ended, which it does whenever it wakes.
type countingContext struct {
	context.Context
	asked int
}

func (c *countingContext) Err() error {
	c.asked++
	return c.Context.Err()
}

// TestReadersOfEventsRarelyWake counts how often a reader of events wakes while a job prints a line each millisecond. Each
// open page of the job has such a reader.
func TestReadersOfEventsRarelyWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t)
		ctx := &countingContext{Context: t.Context()}
		got, ended := 0, make(chan error, 1)
		go func() {
			ended <- reading(l).FollowEvents(ctx, 1, func(messages []schemas.Message) error {
				got += len(messages)
				return nil
			})
		}()
		stream := l.Stream(schemas.Stdout)
		const lines = 1000
		for range lines {
			time.Sleep(time.Millisecond)
			write(t, stream, "a line\n")
		}
		if err := l.Event(schemas.PhaseEvent{Phase: schemas.Build}); err != nil {
			t.Fatal(err)
		}
		l.Complete()
		if err := <-ended; err != nil || got != 1 {
			t.Errorf("%d events, %v", got, err)
		}
		if most := 4 * lines * int(time.Millisecond) / int(eventsDelay); ctx.asked > most {
			t.Errorf("it has woken %d times, want at most %d", ctx.asked, most)
		}
	})
}

// TestFollowEvents reads a job's messages without its lines. Their numbers also count the lines.
func TestFollowEvents(t *testing.T) {
	store, err := Open(t.TempDir(), Keep{Jobs: 1}, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	l, err := store.Create("job", nil)
	if err != nil {
		t.Fatal(err)
	}
	l.Respond(schemas.Accepted(), nil)
	write(t, l.Stream(schemas.Stdout), strings.Repeat("a line\n", 5000))
	if err := l.Event(schemas.PhaseEvent{Phase: schemas.Build}); err != nil {
		t.Fatal(err)
	}
	write(t, l.Stream(schemas.Stderr), "a line\n")
	l.Respond(schemas.Exited(0), nil)
	l.Complete()
	r, err := store.Reader("job")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer l.Close()
	for from, want := range map[int64][]int64{1: {1, 5002, 5004}, 2: {5002, 5004}, 5003: {5004}, 5005: nil} {
		var got []int64
		err := r.FollowEvents(t.Context(), from, func(messages []schemas.Message) error {
			for _, m := range messages {
				got = append(got, m.Seq)
			}
			return nil
		})
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("from %d: %v (-want +got):\n%s", from, err, diff)
		}
	}
}
