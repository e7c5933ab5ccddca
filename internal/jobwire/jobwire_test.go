package jobwire

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/schemas"
)

const token = "TOKENTOKENTOKENTOKENTOKENT"

// pipe collects the writes to it, each by itself.
type pipe struct{ writes [][]byte }

func (p *pipe) Write(b []byte) (int, error) {
	p.writes = append(p.writes, bytes.Clone(b))
	return len(b), nil
}

var errBroken = errors.New("broken")

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errBroken }

// allRecords returns records of every kind, and of every length around that of one frame.
func allRecords() []Record {
	all := []Record{
		{Commit: "c0ffee"},
		{Usage: &Usage{PeakMemory: 1 << 40, CPUSeconds: 1.5}},
		{Pushed: &schemas.Pushed{Paths: 1, Bytes: 2}},
		{Event: schemas.AppendEvent(nil, schemas.PhaseEvent{Phase: schemas.Build})},
	}
	for _, length := range []int{3900, 4010, 4030, 4050, 4096, 8100, 100_000} {
		all = append(all, Record{Commit: strings.Repeat("\x1e"+token, length)[:length]})
	}
	return all
}

// cut sends bytes in chunks through a Demuxer.
func cut(t testing.TB, chunks [][]byte) (output []byte, got []Record) {
	t.Helper()
	var out bytes.Buffer
	c := NewDemuxer(&out, token, func(n Record) { got = append(got, n) })
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

func TestRecords(t *testing.T) {
	var p pipe
	w := NewWriter(&p, token)
	for _, n := range allRecords() {
		w.Send(n)
	}
	for _, write := range p.writes {
		if len(write) > atomic {
			t.Errorf("a write of %d bytes, which can be torn", len(write))
		}
	}
	output, got := cut(t, p.writes)
	if diff := cmp.Diff(allRecords(), got); diff != "" || len(output) > 0 {
		t.Errorf("output %q, records (-want +got):\n%s", output, diff)
	}
}

// A record is one frame if that is a write of at most 4096 bytes, else several.
func TestPieces(t *testing.T) {
	room := 4096 - len("\x1e") - 24 - len(".") - 8 - 4 - 4 - 32 // the header
	for _, test := range []struct{ length, last int }{{room, 4096}, {room + 1, 4096 - room + 1}, {2 * room, 4096}} {
		var p pipe
		commit := strings.Repeat("x", test.length-len(`{"commit":""}`))
		NewWriter(&p, token).Send(Record{Commit: commit})
		if want := (test.length + room - 1) / room; len(p.writes) != want || len(p.writes[len(p.writes)-1]) != test.last {
			t.Errorf("%d bytes: %d writes, want %d; the last has %d bytes, want %d",
				test.length, len(p.writes), want, len(p.writes[len(p.writes)-1]), test.last)
		}
		if output, got := cut(t, p.writes); len(output) > 0 || len(got) != 1 || got[0].Commit != commit {
			t.Errorf("%d bytes: output %q, %d records", test.length, output, len(got))
		}
	}
}

func TestEvent(t *testing.T) {
	var p pipe
	NewWriter(&p, token).Event(schemas.PhaseEvent{Phase: schemas.Build})
	_, got := cut(t, p.writes)
	if diff := cmp.Diff([]Record{{Event: json.RawMessage(`{"type":"phase","phase":"build"}`)}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Without a key nothing is written: nothing would remove it from the output.
func TestNoKey(t *testing.T) {
	var p pipe
	NewWriter(&p, "").Send(Record{Commit: "c0ffee"})
	if len(p.writes) > 0 {
		t.Errorf("written: %q", p.writes)
	}
}

// A record of 2 MiB is accepted. A record without an end is dropped and uses no more memory.
func TestLongestRecord(t *testing.T) {
	var p pipe
	w := NewWriter(&p, token)
	long, end := Record{Commit: strings.Repeat("x", 2<<20-100)}, Record{End: &End{ExitCode: 3}}
	w.Send(long)
	w.Send(Record{Commit: strings.Repeat("x", 3<<20)})
	w.Send(end)
	var got []Record
	c := NewDemuxer(io.Discard, token, func(n Record) { got = append(got, n) })
	most := 0
	for _, write := range p.writes {
		if _, err := c.Write(write); err != nil {
			t.Fatal(err)
		}
		most = max(most, len(c.pieces))
	}
	if len(got) != 2 || got[0].Commit != long.Commit || got[1].End == nil || got[1].End.ExitCode != 3 || most > 2<<20+4096 {
		t.Errorf("%d records, %d bytes were kept", len(got), most)
	}
}

// The Demuxer returns the error of the writer that it writes to.
func TestDemuxerErrors(t *testing.T) {
	var p pipe
	NewWriter(&p, token).Send(Record{Commit: "c0ffee"})
	for what, written := range map[string][]byte{
		"output":                 []byte("a"),
		"output before a record": append([]byte("a"), p.writes[0]...),
		"output before a part":   append([]byte("a"), p.writes[0][:30]...),
	} {
		c := NewDemuxer(failing{}, token, func(n Record) { t.Errorf("%s: record %+v", what, n) })
		if _, err := c.Write(written); !errors.Is(err, errBroken) {
			t.Errorf("%s: error %v", what, err)
		}
	}
}

// FuzzDemuxer mixes output and frames, splits that anywhere, and separates it again.
// The output may have bytes that look like a frame.
func FuzzDemuxer(f *testing.F) {
	f.Add([]byte("a line\nhalf a"), uint64(1))
	f.Add([]byte("\x1e\x1eTOKEN\x1eTOKENTOKENTOKENTOKENTOKEN"), uint64(2))
	f.Add([]byte("\x1eTOKENTOKENTOKENTOKENTOKENX.0001a"), uint64(3))
	f.Add([]byte("\x1e"+token+"!"), uint64(4))
	f.Add([]byte("\x1e"+token+".zzzz"), uint64(5))
	f.Add(bytes.Repeat([]byte("\x1e\n"), 100), uint64(6))
	f.Fuzz(func(t *testing.T, output []byte, seed uint64) {
		if bytes.Contains(output, prefixOf(token)) {
			return // its end may look like a truncated frame
		}
		random := rand.New(rand.NewPCG(seed, 0))
		var records pipe
		w := NewWriter(&records, token)
		all := allRecords()
		for _, n := range all {
			w.Send(n)
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
			t.Errorf("records (-want +got):\n%s", diff)
		}
	})
}

// Bytes that begin like a frame are passed on as soon as they cannot be one.
func TestHeldBack(t *testing.T) {
	prefix := string(prefixOf(token))
	badLength := prefix + "." + strings.Repeat("0", numberDigits+pieceDigits) + "00g0" + strings.Repeat("0", macDigits)
	tooLong := prefix + "." + strings.Repeat("0", numberDigits+pieceDigits) + "ffff" + strings.Repeat("0", macDigits)
	noSeal := prefix + "." + strings.Repeat("0", numberDigits+pieceDigits) + "0001" + strings.Repeat("0", macDigits) + "{"
	for _, test := range []struct{ written, passed string }{
		{"a\x1e", "a"},
		{"a\x1eX", "a\x1eX"},
		{"a" + prefix[:6], "a"},
		{"a" + prefix[:6] + "\n", "a" + prefix[:6] + "\n"},
		{"a" + prefix[:6] + "\x1e", "a" + prefix[:6]},
		{badLength, badLength},
		{tooLong, tooLong},
		{noSeal, noSeal},
	} {
		var out bytes.Buffer
		c := NewDemuxer(&out, token, func(n Record) { t.Errorf("%q is the record %+v", test.written, n) })
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

// A frame that is cut off at the end is not shown.
func TestTruncatedFrame(t *testing.T) {
	var p pipe
	NewWriter(&p, token).Send(Record{Commit: "c0ffee"})
	whole := p.writes[0]
	for length := len(prefixOf(token)); length < len(whole); length++ {
		if output, got := cut(t, [][]byte{[]byte("a"), whole[:length]}); string(output) != "a" || len(got) > 0 {
			t.Errorf("%d bytes: output %q, records %+v", length, output, got)
		}
	}
}

// A program that can read frames, and can withhold them from the builder, cannot forge, change or
// repeat them, and cannot make another record of the pieces of one.
func TestForgedFrames(t *testing.T) {
	var p pipe
	w := NewWriter(&p, token)
	first, long, end := Record{Commit: "first"}, Record{Commit: strings.Repeat("a", 10_000)}, Record{End: &End{ExitCode: 3}}
	for _, n := range []Record{first, long, end} {
		w.Send(n)
	}
	changed := func(at int) []byte {
		record := bytes.Clone(p.writes[0])
		record[at] ^= 1
		return record
	}
	pieces := len(p.writes) - 2
	for name, test := range map[string]struct {
		sent  [][]byte
		want  []Record
		shown bool // what was sent first
	}{
		"as they are":      {p.writes, []Record{first, long, end}, false},
		"twice":            {append([][]byte{p.writes[0]}, p.writes...), []Record{first, long, end}, false},
		"out of order":     {[][]byte{p.writes[pieces+1], p.writes[0]}, []Record{end}, false},
		"one is kept":      {p.writes[1:], []Record{long, end}, false},
		"a piece is kept":  {p.writes[2:], []Record{end}, false},
		"another is kept":  {append([][]byte{p.writes[1]}, p.writes[3:]...), []Record{end}, false},
		"changed content":  {[][]byte{changed(headerLength + 12)}, nil, true},
		"changed number":   {[][]byte{changed(numberAt + numberDigits - 1)}, nil, true},
		"changed flag":     {[][]byte{changed(flagAt)}, nil, true},
		"changed MAC":      {[][]byte{changed(macAt)}, nil, true},
		"with another key": {[][]byte{forged(p.writes[0])}, nil, true},
	} {
		output, got := cut(t, test.sent)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: records (-want +got):\n%.500s", name, diff)
		}
		if shown := len(output) > 0; shown != test.shown || shown && !bytes.Equal(output, test.sent[0]) {
			t.Errorf("%s: output %q", name, output)
		}
	}
}

// forged returns a frame with the MAC of another key.
func forged(record []byte) []byte {
	other := newMAC("another").of(record[:macAt], record[headerLength:])
	return append(append(bytes.Clone(record[:macAt]), other...), record[headerLength:]...)
}

// A record that is invalid, or never ends, is dropped.
func TestBrokenRecords(t *testing.T) {
	var p pipe
	w := NewWriter(&p, token)
	w.Send(Record{Commit: strings.Repeat("a", 2*maxRecord)})
	w.write(0, last, []byte("{"))
	_, got := cut(t, p.writes)
	for _, n := range got {
		if text, _ := json.Marshal(n); len(text) > 10 {
			t.Errorf("a record came: %.100s", text)
		}
	}
}

// BenchmarkDemuxer measures the cost for output that has no frames.
func BenchmarkDemuxer(b *testing.B) {
	chunk := []byte(strings.Repeat(strings.Repeat("0123456789 ", 7)+"\n", 420))
	var out bytes.Buffer
	c := NewDemuxer(&out, token, func(Record) {})
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		c.Write(chunk)
		out.Reset()
	}
}
