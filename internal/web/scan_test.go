package web

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// numbered is a log of n lines.
func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	return b.String()
}

// memory is a log in memory.
type memory struct{ *strings.Reader }

func logOf(text string) memory { return memory{strings.NewReader(text)} }

func (m memory) Offset(line int64) (offset int64, err error) {
	for ; line > 0 && offset < m.Size(); line-- {
		rest := make([]byte, m.Size()-offset)
		m.ReadAt(rest, offset)
		offset += int64(bytes.IndexByte(rest, '\n') + 1)
	}
	return offset, nil
}

func TestLinesFrom(t *testing.T) {
	const n = 300
	log := logOf(numbered(n))
	for _, from := range []int64{0, 1, 99, n - 3, n, n + 5} {
		lines, cut, err := linesFrom(log, log.Size(), from, 5)
		want := []string{}
		for i := from; i < min(n, from+5); i++ {
			want = append(want, fmt.Sprint("line ", i))
		}
		if diff := cmp.Diff(want, lines); diff != "" || cut != nil || err != nil {
			t.Errorf("from %d: %v, %v (-want +got):\n%s", from, cut, err, diff)
		}
	}
}

// furthest notes how far a log is read.
type furthest struct {
	memory
	end int64
}

func (f *furthest) ReadAt(p []byte, at int64) (int, error) {
	f.end = max(f.end, at+int64(len(p)))
	return f.memory.ReadAt(p, at)
}

func (f *furthest) Offset(int64) (int64, error) { return 0, nil }

// TestLinesReadLittle requests as many lines as the page does, at the beginning of a long log.
func TestLinesReadLittle(t *testing.T) {
	log := &furthest{memory: logOf(strings.Repeat(strings.Repeat("x", 79)+"\n", 100_000))}
	lines, _, err := linesFrom(log, log.Size(), 0, defaultLines)
	if err != nil || len(lines) != defaultLines || log.end > 2*linesBuffer {
		t.Errorf("%d lines, %d bytes are read, %v", len(lines), log.end, err)
	}
}

func TestLongLinesAreCut(t *testing.T) {
	log := logOf("a\n" + strings.Repeat("é", scanBuffer) + "\n\n" + strings.Repeat("x", maxShown) + "\nb\n")
	lines, cut, err := linesFrom(log, log.Size(), 0, 10)
	want := []string{"a", strings.Repeat("é", maxShown/2), "", strings.Repeat("x", maxShown), "b"}
	if diff := cmp.Diff(want, lines); diff != "" || !slices.Equal(cut, []int{1}) || err != nil {
		t.Errorf("cut %v, %v (-want +got):\n%s", cut, err, diff)
	}
}

// Lines that JSON makes long: an answer ends after maxAnswer bytes, and the next one continues there.
func TestAnswersAreBounded(t *testing.T) {
	const n = 200
	long := strings.Repeat("\x01", maxShown)
	log := logOf(strings.Repeat(long+"\n", n))
	var all []string
	for rounds := 0; len(all) < n; rounds++ {
		lines, _, err := linesFrom(log, log.Size(), int64(len(all)), maxLines)
		if size := len(lines) * len(long); err != nil || size == 0 || size > maxAnswer {
			t.Fatalf("an answer has %d bytes, error %v", size, err)
		}
		all = append(all, lines...)
	}
	if len(all) != n {
		t.Errorf("%d lines, want %d", len(all), n)
	}
}

func TestFind(t *testing.T) {
	filler := strings.Repeat("nothing here, in a line of some length\n", 60_000)
	log := logOf("Error: one\n" + filler + "two err\x1b[31mORs, error\x1b[0m\n\n" + filler + "not an err\nor\nÄRGER\n")
	for _, test := range []struct {
		query string
		from  int64
		limit int
		want  []int64
		count int64
	}{
		{"error", 0, 10, []int64{0, 60_001}, 2},
		{"ERROR", 0, 1, []int64{0}, 2},
		{"error", 1, 10, []int64{60_001}, 1},
		{"ärger", 0, 10, []int64{120_005}, 1},
		{"[31m", 0, 10, []int64{}, 0},
		{"some length", 0, 2, []int64{1, 2}, 120_000},
	} {
		got, err := find(t.Context(), log, log.Size(), test.query, test.from, test.limit)
		if diff := cmp.Diff(test.want, got.found); diff != "" || got.count != test.count || got.line != 120_006 || err != nil {
			t.Errorf("%q from %d: %d, %v (-want +got):\n%s", test.query, test.from, got.count, err, diff)
		}
	}
}

// endsAfter is a log whose search reaches its time limit after a number of chunks.
type endsAfter struct {
	memory
	chunks int
	end    context.CancelFunc
}

func (e *endsAfter) ReadAt(p []byte, at int64) (int, error) {
	if e.chunks--; e.chunks == 0 {
		e.end()
	}
	return e.memory.ReadAt(p, at)
}

// A search that reaches its time limit returns its position, and the next request continues there.
func TestFindInPieces(t *testing.T) {
	const lines = 100
	log := logOf(strings.Repeat("an error"+strings.Repeat(" in a long line", 2500)+"\n", lines))
	var count, from int64
	for rounds := 0; from < lines; rounds++ {
		if rounds > 10 {
			t.Fatalf("it came to %d in %d rounds", from, rounds)
		}
		ctx, cancel := context.WithCancel(t.Context())
		got, err := find(ctx, &endsAfter{log, 3, cancel}, log.Size(), "error", from, 1)
		if err != nil || got.line <= from || len(got.found) != 1 || got.found[0] != from {
			t.Fatalf("from %d: %+v, error %v", from, got, err)
		}
		count, from = count+got.count, got.line
	}
	if count != lines {
		t.Errorf("%d lines were found", count)
	}
}

// TestFindHidden searches lines with control characters, which the page does not show.
func TestFindHidden(t *testing.T) {
	log := logOf("ding\x07dong\nNUL\x00inside\nfo\u0085rm\u009b\n\x7fdel\x0b\ttab\nca\u00b2r\u00e9 \u0400\nend \xc2")
	for query, want := range map[string]int64{"dingdong": 0, "nulinside": 1, "form": 2, "del\ttab": 3, "ca\u00b2r\u00e9 \u0400": 4} {
		got, err := find(t.Context(), log, log.Size(), query, 0, 10)
		if diff := cmp.Diff([]int64{want}, got.found); diff != "" || err != nil {
			t.Errorf("%q: %v (-want +got):\n%s", query, err, diff)
		}
	}
}

func TestWithoutSequences(t *testing.T) {
	for text, want := range map[string]string{
		"plain":                                 "plain",
		"\x1b[1;31mred\x1b[0m!":                 "red!",
		"\x1b[38;2;1;2;3mtrue\x1b[K":            "true",
		"\x1b]0;title\x07a\x1b]8;;u\x1b\\b":     "ab",
		"\x1bPdevice\x1b\\c\x1b_program\x1b\\d": "cd",
		"\x1b(Bascii\x1b7\x1bM":                 "ascii",
		"\x1b]0;never ended\nnext":              "0;never ended\nnext",
		"\x1b[3":                                "3",
		"\x1b\x1b[0m.\x1b":                      ".",
		"a\x1b\nb":                              "a\nb",
	} {
		if got := string(withoutSequences([]byte(text))); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
