package history

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/jobend"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func open(t *testing.T, name string) *History {
	t.Helper()
	h, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func file(t *testing.T) string { return filepath.Join(t.TempDir(), "made", "history.db") }

func keep(t *testing.T, h *History, records ...Record) {
	t.Helper()
	for _, r := range records {
		if err := h.Put(r); err != nil {
			t.Fatal(err)
		}
	}
}

// every matches all records.
func every(Record) bool { return true }

// ids returns the ids of the newest records.
func ids(t *testing.T, h *History, limit int) string {
	t.Helper()
	records, err := h.Find("", limit, every)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, r := range records {
		ids = append(ids, r.Job)
	}
	return strings.Join(ids, " ")
}

func TestRecords(t *testing.T) {
	h := open(t, file(t))
	code := 0
	first := Record{Job: "first", Repository: "https://example.com/a", Command: "nix build", Begun: noon}
	second := Record{Job: "second", Command: "nix build", Begun: noon.Add(time.Second)}
	keep(t, h, second, first) // in whatever order they come
	if got := ids(t, h, 10); got != "second first" {
		t.Errorf("the newest first: %s", got)
	}
	if got := ids(t, h, 1); got != "second" {
		t.Errorf("the newest: %s", got)
	}

	first.Ended, first.End, first.ExitCode, first.Lines = noon.Add(time.Minute), jobend.Exited, &code, 3
	first.Verdict = json.RawMessage(`{"type":"verdict"}`)
	keep(t, h, first)
	got, err := h.Get("first")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, got); diff != "" {
		t.Errorf("the record (-put +got):\n%s", diff)
	}
	if got := ids(t, h, 10); got != "second first" {
		t.Errorf("after an end: %s", got)
	}
	if _, err := h.Get("third"); !errors.Is(err, ErrNotFound) {
		t.Errorf("of a job that never was: %v", err)
	}
}

func TestFind(t *testing.T) {
	h := open(t, file(t))
	for n, job := range []string{"one", "two", "three", "four", "five"} {
		keep(t, h, Record{Job: job, Begun: noon.Add(time.Duration(n) * time.Second), Branch: []string{"odd", "even"}[n%2]})
	}
	odd := func(r Record) bool { return r.Branch == "odd" }
	for _, test := range []struct {
		before string
		limit  int
		want   string
	}{
		{"", 10, "five three one"},
		{"", 2, "five three"},
		{"five", 10, "three one"},
		{"four", 1, "three"}, // which does not match itself
		{"one", 10, ""},
	} {
		records, err := h.Find(test.before, test.limit, odd)
		var found []string
		for _, r := range records {
			found = append(found, r.Job)
		}
		if got := strings.Join(found, " "); err != nil || got != test.want {
			t.Errorf("%d before %q: %q, %v; want %q", test.limit, test.before, got, err, test.want)
		}
	}
	if _, err := h.Find("six", 10, odd); !errors.Is(err, ErrNotFound) {
		t.Errorf("before a job that is not known: %v", err)
	}
}

func TestInterrupted(t *testing.T) {
	name := file(t)
	h, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	keep(t, h, Record{Job: "ended", Begun: noon, End: jobend.Exited}, Record{Job: "lost", Begun: noon})
	h.Close()
	h = open(t, name)
	for job, want := range map[string]jobend.End{"ended": jobend.Exited, "lost": jobend.Interrupted} {
		if r, err := h.Get(job); err != nil || r.End != want {
			t.Errorf("%s: %q, %v; want %q", job, r.End, err, want)
		}
	}
}

// TestPruneWritesNothing keeps all records, as nearly every call does: each job's end is one.
func TestPruneWritesNothing(t *testing.T) {
	h := open(t, file(t))
	keep(t, h, Record{Job: "a", Begun: noon, End: jobend.Exited}, Record{Job: "b", Begun: noon})
	written := func() int64 {
		stats := h.db.Stats()
		return stats.TxStats.GetWrite()
	}
	before := written()
	if err := h.Prune(func(string) bool { return true }); err != nil {
		t.Fatal(err)
	}
	if after := written(); after != before {
		t.Errorf("%d writes", after-before)
	}
	if got := ids(t, h, 10); got != "b a" {
		t.Errorf("left: %s", got)
	}
}

func TestPrune(t *testing.T) {
	h := open(t, file(t))
	keep(t, h, Record{Job: "old", Begun: noon, End: jobend.Exited}, Record{Job: "new", Begun: noon, End: jobend.Failed},
		Record{Job: "running", Begun: noon})
	if err := h.Prune(func(job string) bool { return job == "new" }); err != nil {
		t.Fatal(err)
	}
	if got := ids(t, h, 10); got != "running new" {
		t.Errorf("left: %s", got)
	}
	if _, err := h.Get("old"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the one removed: %v", err)
	}
}

// A text is cut after at most 2 KiB, between two characters.
func TestLongTextsAreCut(t *testing.T) {
	h := open(t, file(t))
	x := func(n int) string { return strings.Repeat("x", n) }
	for text, want := range map[string]string{
		x(2047):                       x(2047),
		x(2048):                       x(2048),
		x(2049):                       x(2048) + "…",
		strings.Repeat("é", 1<<20):    strings.Repeat("é", 1024) + "…",
		x(2047) + "é":                 x(2047) + "…",
		x(2045) + "枝" + x(1):          x(2045) + "枝…",
		x(2046) + "枝" + x(1):          x(2046) + "…",
		x(2047) + "枝枝":                x(2047) + "…",
		x(2044) + "\U0001F600" + "yz": x(2044) + "\U0001F600…",
	} {
		keep(t, h, Record{Job: "a", Begun: noon, Repository: text, Branch: text, Command: text, Error: text, Msg: text, Commit: text})
		got, err := h.Get("a")
		if err != nil {
			t.Fatal(err)
		}
		all := Record{Job: "a", Begun: noon, Repository: want, Branch: want, Command: want, Error: want, Msg: want, Commit: want}
		if diff := cmp.Diff(all, got); diff != "" {
			t.Errorf("%d bytes (-want +got):\n%s", len(text), diff)
		}
	}
}

// TestLongParts stores records with long parts: only those of up to 16 KiB are kept.
func TestLongParts(t *testing.T) {
	h := open(t, file(t))
	const most = 16 << 10
	for _, n := range []int{most, most + 1} {
		part := json.RawMessage(`"` + strings.Repeat("x", n-2) + `"`)
		keep(t, h, Record{Job: "a", Begun: noon, Request: part, Results: part, Verdict: part})
		got, err := h.Get("a")
		if err != nil {
			t.Fatal(err)
		}
		for name, part := range map[string]json.RawMessage{"request": got.Request, "results": got.Results, "verdict": got.Verdict} {
			if (len(part) > 0) != (n <= most) {
				t.Errorf("of a %s of %d bytes, %d are kept", name, n, len(part))
			}
		}
	}
}

// TestFindReadsNoParts searches records with long parts, also after the file was opened anew. The search neither returns the
// parts nor allocates memory for them.
func TestFindReadsNoParts(t *testing.T) {
	name := file(t)
	h := open(t, name)
	part := json.RawMessage(`"` + strings.Repeat("x", 10_000) + `"`)
	const many = 50
	for n := range many {
		keep(t, h, Record{Job: fmt.Sprint(n), Begun: noon.Add(time.Duration(n)), Branch: "main", End: jobend.Exited,
			Request: part, Results: part, Verdict: part})
	}
	for range 2 {
		records, err := h.Find("", many, every)
		if err != nil || len(records) != many {
			t.Fatalf("%d records, %v", len(records), err)
		}
		for _, r := range records {
			if r.Branch != "main" || r.Request != nil || r.Results != nil || r.Verdict != nil {
				t.Fatalf("a search returns parts of record %s", r.Job)
			}
		}
		if n := testing.AllocsPerRun(10, func() { h.Find("", 1, func(Record) bool { return false }) }); n >= many {
			t.Errorf("a search of %d records allocates %v times", many, n)
		}
		h.Close()
		h = open(t, name)
	}
}

// TestPutDuringReads stores records while others are searched and pruned: it does not wait for that.
func TestPutDuringReads(t *testing.T) {
	h := open(t, file(t))
	keep(t, h, Record{Job: "a", Begun: noon, End: jobend.Exited})
	if _, err := h.Find("", 1, func(Record) bool {
		keep(t, h, Record{Job: "b", Begun: noon.Add(1), End: jobend.Exited})
		return true
	}); err != nil {
		t.Error(err)
	}
	if err := h.Prune(func(job string) bool {
		keep(t, h, Record{Job: "c", Begun: noon.Add(2), End: jobend.Exited})
		return job == "a"
	}); err != nil {
		t.Error(err)
	}
	if got := ids(t, h, 10); got != "c a" {
		t.Errorf("left: %s", got)
	}
}

func TestOutcome(t *testing.T) {
	zero, one := 0, 1
	for _, test := range []struct {
		started                time.Time // when it got a slot
		end                    jobend.End
		code                   *int
		runs, waits, succeeded bool
	}{
		{time.Time{}, "", nil, true, true, false},
		{noon, "", nil, true, false, false},
		{noon, jobend.Exited, &zero, false, false, true},
		{noon, jobend.Exited, &one, false, false, false},
		{noon, jobend.Exited, nil, false, false, false},
		{noon, jobend.Failed, &zero, false, false, false},
		{noon, jobend.Interrupted, nil, false, false, false},
		{time.Time{}, jobend.Interrupted, nil, false, false, false}, // while it waited
	} {
		r := Record{Started: test.started, End: test.end, ExitCode: test.code}
		if r.Runs() != test.runs || r.Waits() != test.waits || r.Succeeded() != test.succeeded {
			t.Errorf("%q with %v, started %v: runs %t, waits %t, succeeded %t",
				test.end, test.code, test.started, r.Runs(), r.Waits(), r.Succeeded())
		}
	}
}

// TestInvalidRecord stores a record that cannot be encoded. It does not prevent others.
func TestInvalidRecord(t *testing.T) {
	h := open(t, file(t))
	if err := h.Put(Record{Job: "bad", Begun: noon, Verdict: json.RawMessage("{")}); err == nil {
		t.Error("an invalid record is stored")
	}
	keep(t, h, Record{Job: "good", Begun: noon})
}

func TestWithoutUser(t *testing.T) {
	for repository, want := range map[string]string{
		"https://example.com/a@b":            "https://example.com/a@b",
		"https://user:key@example.com/a":     "https://example.com/a",
		"https://user@example.com:8443/a?b":  "https://example.com:8443/a?b",
		"ssh://git@example.com/a":            "ssh://example.com/a",
		"git@example.com:owner/a":            "example.com:owner/a",
		"https://us@er:ke@y@example.com/a/b": "https://example.com/a/b",
		"":                                   "",
		"/srv/a@b":                           "/srv/a@b",
		"file:///srv/a@b":                    "file:///srv/a@b",
		"https://user@example.com":           "https://example.com",
		"https://user@example.com?c@d":       "https://example.com?c@d",
		"https://user@example.com#c@d":       "https://example.com#c@d",
	} {
		if got := WithoutUser(repository); got != want {
			t.Errorf("%q: got %q, want %q", repository, got, want)
		}
	}
}
