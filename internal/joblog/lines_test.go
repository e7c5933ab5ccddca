package joblog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/schemas"
)

const (
	// longest is the length in bytes of the longest line that is not split.
	longest = 1 << 20
	// short takes its place in tests of many lines of that length.
	short = 512
)

func newLog(t testing.TB) *Log {
	t.Helper()
	return limitedLog(t, 1<<40)
}

// limitedLog returns a log of at most maxBytes.
func limitedLog(t testing.TB, maxBytes int64) *Log {
	t.Helper()
	store, err := Open(t.TempDir(), Keep{}, maxBytes)
	if err != nil {
		t.Fatal(err)
	}
	l, err := store.Create("job", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// write writes chunks to s, and fails the test if a write fails.
func write(t testing.TB, s *Stream, chunks ...string) {
	t.Helper()
	for _, chunk := range chunks {
		if n, err := s.Write([]byte(chunk)); n != len(chunk) || err != nil {
			t.Fatalf("Write returned %d, %v for %d bytes", n, err, len(chunk))
		}
	}
}

// sealed completes l and returns its lines.
func sealed(t testing.TB, l *Log) []string {
	t.Helper()
	l.Complete()
	var all strings.Builder
	if err := reading(l).Follow(context.Background(), 0, &all); err != nil {
		t.Fatal(err)
	}
	if all.Len() == 0 {
		return nil
	}
	text, ended := strings.CutSuffix(all.String(), "\n")
	if !ended {
		t.Fatalf("the log ends within a line: %q", tail(text))
	}
	return strings.Split(text, "\n")
}

func tail(s string) string { return s[max(0, len(s)-80):] }

// lines returns the lines that a log has after chunks went through a stream.
func lines(t testing.TB, chunks ...string) []string {
	t.Helper()
	return linesOf(t, longest, chunks...)
}

// linesOf returns them where a line has so many bytes at most, if that is less than the package allows.
func linesOf(t testing.TB, longest int, chunks ...string) []string {
	t.Helper()
	l := newLog(t)
	s := l.Stream(schemas.Stdout)
	if longest < s.longest {
		s.longest = longest
	}
	write(t, s, chunks...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return sealed(t, l)
}

// checkLines compares got with the lines of data according to the documentation. The documentation does not say between
// which two runes near the limit a long line is split, so checkLines accepts any.
func checkLines(data string, longest int, got []string) error {
	for i, line := range rawLines(data) {
		for len(line) > longest {
			if len(got) == 0 {
				return fmt.Errorf("line %d: lost %d bytes of it", i, len(line))
			}
			n := bytesOf(line, utf8.RuneCountInString(got[0]))
			if n > longest || n <= longest-utf8.UTFMax {
				return fmt.Errorf("line %d: split after %d bytes", i, n)
			}
			if got[0] != replaceInvalid(line[:n]) {
				return fmt.Errorf("line %d: part of %d bytes differs, it ends in %q, want %q", i, n, tail(got[0]), tail(line[:n]))
			}
			line, got = line[n:], got[1:]
		}
		if len(got) == 0 {
			return fmt.Errorf("line %d: lost", i)
		}
		if want := replaceInvalid(line); got[0] != want {
			return fmt.Errorf("line %d: got %d bytes ending in %q, want %d ending in %q", i, len(got[0]), tail(got[0]), len(want), tail(want))
		}
		got = got[1:]
	}
	if len(got) > 0 {
		return fmt.Errorf("%d lines too many, the first is %q", len(got), tail(got[0]))
	}
	return nil
}

// rawLines returns what LF, CRLF and lone CR end, and what follows the last of them.
func rawLines(data string) []string {
	data = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(data)
	lines := strings.Split(data, "\n")
	if last := len(lines) - 1; lines[last] == "" {
		lines = lines[:last]
	}
	return lines
}

// replaceInvalid puts U+FFFD in place of each byte that is not UTF-8.
func replaceInvalid(line string) string {
	if utf8.ValidString(line) {
		return line // only sooner than the conversions
	}
	return string([]rune(line))
}

// bytesOf returns the length of the first runes of line, where an invalid byte
// counts as one.
func bytesOf(line string, runes int) int {
	n := 0
	for ; runes > 0 && n < len(line); runes-- {
		_, size := utf8.DecodeRuneInString(line[n:])
		n += size
	}
	return n
}

var lineTests = []struct {
	name string
	data string
	want []string
}{
	{"nothing", "", nil},
	{"LF", "a\nb\n", []string{"a", "b"}},
	{"CRLF", "a\r\nb\r\n", []string{"a", "b"}},
	{"CR", "1%\r2%\r", []string{"1%", "2%"}},
	{"all ends", "a\nb\rc\r\nd\n", []string{"a", "b", "c", "d"}},
	{"unterminated", "a\nb", []string{"a", "b"}},
	{"unterminated after CR", "a\rb", []string{"a", "b"}},
	{"only unterminated", "a", []string{"a"}},
	{"empty lines, LF", "\n\n", []string{"", ""}},
	{"empty lines, CRLF", "\r\n\r\n", []string{"", ""}},
	{"empty lines, CR", "\r\r", []string{"", ""}},
	{"LF and CR", "\n\r", []string{"", ""}},
	{"CR, CR, LF", "a\r\r\nb", []string{"a", "", "b"}},
	{"CR, LF, LF", "a\r\n\nb", []string{"a", "", "b"}},
	{"LF, CR, LF", "a\n\r\nb", []string{"a", "", "b"}},
	{"white space", " a \n\t\n \n", []string{" a ", "\t", " "}},
	{"NUL", "a\x00b\n\x00\n\x00", []string{"a\x00b", "\x00", "\x00"}},
	{"ANSI", "\x1b[31;1mred\x1b[0m\n\x1b[2K\x1b[1G50%\r", []string{"\x1b[31;1mred\x1b[0m", "\x1b[2K\x1b[1G50%"}},
	{"other ends of lines are none", "a\vb\fc\u0085d\u2028e\u2029f\n", []string{"a\vb\fc\u0085d\u2028e\u2029f"}},
	{"other controls", "\x01\a\b\x7f\n", []string{"\x01\a\b\x7f"}},
	{"runes of each length", "aé枝😀\n", []string{"aé枝😀"}},
	{"U+FFFD itself", "\ufffd\ufeff\n", []string{"\ufffd\ufeff"}},
	{"invalid byte", "a\xffb\n", []string{"a\ufffdb"}},
	{"invalid bytes, one each", "\xff\xfe\x80\n", []string{"\ufffd\ufffd\ufffd"}},
	{"rune cut short by an end", "\xe6\x9e\n\x9d\n", []string{"\ufffd\ufffd", "\ufffd"}},
	{"rune cut short by CRLF", "\xf0\x9f\x98\r\n\x80\n", []string{"\ufffd\ufffd\ufffd", "\ufffd"}},
	{"rune cut short at the end", "a\xe6\x9e", []string{"a\ufffd\ufffd"}},
	{"surrogate", "\xed\xa0\x80\n", []string{"\ufffd\ufffd\ufffd"}},
	{"longer than needed", "\xc0\xaf\n", []string{"\ufffd\ufffd"}},
	{"beyond U+10FFFF", "\xf4\x90\x80\x80\n", []string{"\ufffd\ufffd\ufffd\ufffd"}},
	{"Latin-1", "gr\xfc\xdfe\n", []string{"gr\ufffd\ufffde"}},
}

func TestLines(t *testing.T) {
	for _, tt := range lineTests {
		t.Run(tt.name, func(t *testing.T) {
			got := lines(t, tt.data)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			if err := checkLines(tt.data, longest, tt.want); err != nil {
				t.Errorf("checkLines refuses the lines of the table: %v", err)
			}
		})
	}
}

// mixture has every combination of line ends and runes.
const mixture = "a\r\n\r\r\nb\n\n\ré枝😀\xff\xe6\x9e\r\x9d\xf0\x9f\n\x00\x1b[0m\rlast 😀"

func TestEveryCut(t *testing.T) {
	want := lines(t, mixture)
	if err := checkLines(mixture, longest, want); err != nil {
		t.Fatal(err)
	}
	l := newLog(t) // of all of them, one after the other
	var cuts [][2]int
	for i := range len(mixture) + 1 {
		for j := i; j <= len(mixture); j++ {
			s := l.Stream(schemas.Stdout)
			write(t, s, mixture[:i], mixture[i:j], mixture[j:])
			closed(t, s)
			cuts = append(cuts, [2]int{i, j})
		}
	}
	all := sealed(t, l)
	for n, cut := range cuts {
		got := all[min(n*len(want), len(all)):min((n+1)*len(want), len(all))]
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("cut at %d and %d (-whole +cut):\n%s", cut[0], cut[1], diff)
		}
	}
	if len(all) != len(cuts)*len(want) {
		t.Errorf("%d lines, want %d", len(all), len(cuts)*len(want))
	}
}

func TestOneByteWrites(t *testing.T) {
	data := strings.Repeat(mixture, 100)
	for name, reader := range map[string]io.Reader{
		"one byte at a time": iotest.OneByteReader(strings.NewReader(data)),
		"halves":             iotest.HalfReader(strings.NewReader(data)),
		"end with the data":  iotest.DataErrReader(strings.NewReader(data)),
	} {
		l := newLog(t)
		s := l.Stream(schemas.Stdout)
		// A struct hides the methods by which io.Copy would take a shortcut.
		if n, err := io.Copy(struct{ io.Writer }{s}, struct{ io.Reader }{reader}); n != int64(len(data)) || err != nil {
			t.Fatalf("%s: copied %d of %d bytes: %v", name, n, len(data), err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(lines(t, data), sealed(t, l)); diff != "" {
			t.Errorf("%s (-whole +got):\n%s", name, diff)
		}
	}
}

func TestLongLines(t *testing.T) {
	for _, tt := range []struct {
		length int
		end    string
		lines  int
	}{
		{longest - 1, "\n", 1},
		{longest, "\r\n", 1},
		{longest, "", 1},
		{longest + 1, "\r", 2},
		{2 * longest, "\r\n", 2},
		{3*longest + 7, "", 4},
	} {
		data := "first\n" + strings.Repeat("x", tt.length) + tt.end
		got := lines(t, data)
		if err := checkLines(data, longest, got); err != nil || len(got) != 1+tt.lines {
			t.Errorf("%d bytes and %q: %d lines, want %d; error %v", tt.length, tt.end, len(got)-1, tt.lines, err)
		}
	}
}

// A rune, or a part of a rune, that extends over the limit is not split, in one write and in many.
func TestLongLineIsSplitBetweenRunes(t *testing.T) {
	for _, piece := range []string{"é", "枝", "😀", "\xf0\x9f\x98", "\xff", "\xe6a"} {
		for before := 1; before <= len(piece); before++ {
			start := strings.Repeat("x", short-before)
			rest := strings.Repeat(piece, 3) + "end\nnext"
			whole := linesOf(t, short, start+rest)
			if err := checkLines(start+rest, short, whole); err != nil {
				t.Errorf("%q %d bytes before the limit: %v", piece, before, err)
			}
			cut := linesOf(t, short, append([]string{start}, strings.Split(rest, "")...)...)
			if diff := cmp.Diff(shortened(whole), shortened(cut)); diff != "" || !equal(whole, cut) {
				t.Errorf("%q %d bytes before the limit (-one write +many):\n%s", piece, before, diff)
			}
		}
	}
}

// shortened makes long lines fit for a report of differences.
func shortened(lines []string) []string {
	var short []string
	for _, line := range lines {
		short = append(short, fmt.Sprintf("%d bytes ending in %q", len(line), tail(line)))
	}
	return short
}

func equal(a, b []string) bool { return strings.Join(a, "\n") == strings.Join(b, "\n") }

// FuzzLines divides data into chunks whose lengths are the bytes of cuts, repeatedly. If long is set, the beginning of a
// line precedes data: the line reaches the limit within the first 255 bytes of data.
func FuzzLines(f *testing.F) {
	for i, tt := range lineTests {
		f.Add([]byte(tt.data), []byte{byte(i % 4), 1}, false, byte(0))
	}
	for before := range 4 {
		f.Add([]byte("é枝😀"+mixture), []byte{1, 0, 2}, true, byte(1+3*before))
	}
	f.Fuzz(func(t *testing.T, data, cuts []byte, long bool, before byte) {
		var start string
		if long {
			start = strings.Repeat("x", short-int(before))
		}
		whole := linesOf(t, short, start+string(data))
		if err := checkLines(start+string(data), short, whole); err != nil {
			t.Error(err)
		}
		cut := linesOf(t, short, append([]string{start}, chunks(data, cuts)...)...)
		if !equal(whole, cut) {
			t.Errorf("in one write %q, in chunks %q", shortened(whole), shortened(cut))
		}
	})
}

func chunks(data, cuts []byte) []string {
	var chunks []string
	if len(bytes.Trim(cuts, "\x00")) == 0 {
		cuts = []byte{1}
	}
	for i := 0; len(data) > 0; i++ {
		n := min(int(cuts[i%len(cuts)]), len(data))
		chunks = append(chunks, string(data[:n]))
		data = data[n:]
	}
	return chunks
}

// Two streams that write chunks in turn do not mix their lines.
func TestStreamsDoNotMix(t *testing.T) {
	l := newLog(t)
	out, err := l.Stream(schemas.Stdout), l.Stream(schemas.Stdout)
	write(t, out, "out ")
	write(t, err, "err ")
	write(t, out, "1\r")
	write(t, err, "1\n") // no LF of out's CR
	write(t, out, "\nout \xe6")
	write(t, err, "err \x9e") // no second byte of out's rune
	write(t, out, "\x9e\x9d\nout 3")
	write(t, err, "\nerr 3")
	if e := errors.Join(l.Printf("iglu: %d%%\nanother", 100), err.Close(), out.Close()); e != nil {
		t.Fatal(e)
	}
	want := []string{"out 1", "err 1", "out 枝", "err \ufffd", "iglu: 100%", "another", "err 3", "out 3"}
	if diff := cmp.Diff(want, sealed(t, l)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestStreamsAtOnce(t *testing.T) {
	const streams, count = 4, 2000
	l := newLog(t)
	var writers sync.WaitGroup
	for i := range streams {
		writers.Go(func() {
			var text strings.Builder
			for n := range count {
				fmt.Fprintf(&text, "stream %d line %d\r\n", i, n)
			}
			s := l.Stream(schemas.Stdout)
			if _, err := io.Copy(struct{ io.Writer }{s}, iotest.HalfReader(strings.NewReader(text.String()))); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()

	var next [streams]int
	for _, line := range sealed(t, l) {
		var i, n int
		if _, err := fmt.Sscanf(line, "stream %d line %d", &i, &n); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if want := fmt.Sprintf("stream %d line %d", i, next[i]); line != want {
			t.Fatalf("got %q, want %q", line, want)
		}
		next[i]++
	}
	if next != [streams]int{count, count, count, count} {
		t.Errorf("lines of each stream: %v, want %d", next, count)
	}
}
