package jobwire

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/schemas"
)

const token = "TOKENTOKENTOKENTOKENTOKENT"

// pipe collects what is written to it, as the writes that came.
type pipe struct{ writes [][]byte }

func (p *pipe) Write(b []byte) (int, error) {
	p.writes = append(p.writes, bytes.Clone(b))
	return len(b), nil
}

// notes are of every kind, and of every length around that of one record.
func notes() []Note {
	all := []Note{
		{Commit: "c0ffee"},
		{Usage: &Usage{PeakMemory: 1 << 40, CPUSeconds: 1.5}},
		{Pushed: &schemas.Pushed{Paths: 1, Bytes: 2}},
		{Event: schemas.AppendEvent(nil, schemas.PhaseEvent{Phase: schemas.Build})},
	}
	for _, length := range []int{3900, 4010, 4030, 4050, 4096, 8100, 100_000} {
		all = append(all, Note{Commit: strings.Repeat("\x1e"+token, length)[:length]})
	}
	return all
}

// cut sends bytes in chunks through a Cutter.
func cut(t testing.TB, chunks [][]byte) (output []byte, got []Note) {
	t.Helper()
	var out bytes.Buffer
	c := NewCutter(&out, token, func(n Note) { got = append(got, n) })
	for _, chunk := range chunks {
		before := bytes.Clone(chunk)
		if n, err := c.Write(chunk); n != len(chunk) || err != nil {
			t.Fatalf("Write returned %d, %v", n, err)
		}
		if !bytes.Equal(before, chunk) {
			t.Fatal("Write has changed its chunk")
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), got
}

func TestNotes(t *testing.T) {
	var p pipe
	w := NewWriter(&p, token)
	for _, n := range notes() {
		w.Note(n)
	}
	for _, write := range p.writes {
		if len(write) > atomic {
			t.Errorf("a write of %d bytes, which can be torn", len(write))
		}
	}
	output, got := cut(t, p.writes)
	if diff := cmp.Diff(notes(), got); diff != "" || len(output) > 0 {
		t.Errorf("output %q, notes (-want +got):\n%s", output, diff)
	}
}

// FuzzCutter mixes output and records in any way, splits that anywhere, and takes it apart.
// The output may hold what looks like a record.
func FuzzCutter(f *testing.F) {
	f.Add([]byte("a line\nhalf a"), uint64(1))
	f.Add([]byte("\x1e\x1eTOKEN\x1eTOKENTOKENTOKENTOKENTOKEN"), uint64(2))
	f.Add([]byte("\x1eTOKENTOKENTOKENTOKENTOKENX.0001a"), uint64(3))
	f.Add([]byte("\x1e"+token+"!"), uint64(4))
	f.Add([]byte("\x1e"+token+".zzzz"), uint64(5))
	f.Add(bytes.Repeat([]byte("\x1e\n"), 100), uint64(6))
	f.Fuzz(func(t *testing.T, output []byte, seed uint64) {
		if known := bytes.Index(output, prefixOf(token)); known >= 0 {
			rest := output[known+1+len(token):]
			if len(rest) == 0 || rest[0] == more || rest[0] == last {
				return // that is a record, for all that one can see
			}
		}
		random := rand.New(rand.NewPCG(seed, 0))
		var records pipe
		w := NewWriter(&records, token)
		all := notes()
		for _, n := range all {
			w.Note(n)
		}
		var mixed []byte
		for rest := output; len(rest) > 0 || len(records.writes) > 0; {
			if n := random.IntN(len(rest) + 1); n > 0 {
				mixed, rest = append(mixed, rest[:n]...), rest[n:]
			}
			if len(records.writes) > 0 {
				mixed, records.writes = append(mixed, records.writes[0]...), records.writes[1:]
			}
		}
		var chunks [][]byte
		for rest := mixed; len(rest) > 0; {
			n := 1 + random.IntN(min(len(rest), 1+random.IntN(5000)))
			chunks, rest = append(chunks, rest[:n]), rest[n:]
		}
		got, cutOut := cut(t, chunks)
		if !bytes.Equal(got, output) {
			t.Errorf("output %q, want %q", got, output)
		}
		if diff := cmp.Diff(all, cutOut); diff != "" {
			t.Errorf("notes (-want +got):\n%s", diff)
		}
	})
}

// What only begins like a record is passed on as soon as it cannot be one any more.
func TestHeldBack(t *testing.T) {
	for _, test := range []struct{ written, passed string }{
		{"a\x1e", "a"},
		{"a\x1eX", "a\x1eX"},
		{"a\x1eTOKEN", "a"},
		{"a\x1eTOKEN\n", "a\x1eTOKEN\n"},
		{"a\x1eTOKEN\x1e", "a\x1eTOKEN"},
		{"\x1e" + token + "?0000", "\x1e" + token + "?0000"},
		{"\x1e" + token + ".00g0", "\x1e" + token + ".00g0"},
		{"\x1e" + token + ".0001", ""},
	} {
		var out bytes.Buffer
		c := NewCutter(&out, token, func(n Note) { t.Errorf("%q is the note %+v", test.written, n) })
		for _, b := range []byte(test.written) {
			c.Write([]byte{b})
		}
		if out.String() != test.passed {
			t.Errorf("%q: passed on is %q, want %q", test.written, out.String(), test.passed)
		}
		if c.Close(); out.String() != test.written {
			t.Errorf("%q: passed on at the end is %q", test.written, out.String())
		}
	}
}

// Without a token nothing is told: nobody would cut it out.
func TestNoToken(t *testing.T) {
	var p pipe
	NewWriter(&p, "").Note(Note{Commit: "c0ffee"})
	if len(p.writes) > 0 {
		t.Errorf("written is %q", p.writes)
	}
}

// A note that is none, or never ends, is forgotten.
func TestBrokenNotes(t *testing.T) {
	var p pipe
	w := NewWriter(&p, token)
	w.Note(Note{Commit: strings.Repeat("a", 2*maxNote)})
	broken := append(prefixOf(token), ".0001{"...)
	_, got := cut(t, append(p.writes, broken))
	for _, n := range got {
		if text, _ := json.Marshal(n); len(text) > 10 {
			t.Errorf("a note came: %.100s", text)
		}
	}
}

// BenchmarkCutter is what the cutting costs output that has no records.
func BenchmarkCutter(b *testing.B) {
	chunk := []byte(strings.Repeat(strings.Repeat("0123456789 ", 7)+"\n", 420))
	var out bytes.Buffer
	c := NewCutter(&out, token, func(Note) {})
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		c.Write(chunk)
		out.Reset()
	}
}
