package buildclient

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/termtest"
)

// hostile are lines that would do something to a terminal, and what is to be seen of them.
var hostile = []struct{ line, shown string }{
	{"\x1b]0;owned\a title", "^[]0;owned^G title"},
	{"\x1b[2J\x1b[H cleared", "^[[2J^[[H cleared"},
	{"\x1b[5A\x1b[10D moved", "^[[5A^[[10D moved"},
	{"\x1b[?1049h other screen", "^[[?1049h other screen"},
	{"\x1bc reset", "^[c reset"},
	{"\x1bP+q544e\x1b\\ asks", "^[P+q544e^[\\ asks"},
	{"\x1b[6n\x1b[c asks", "^[[6n^[[c asks"},
	{"\x1b[31 m no colour", "^[[31 m no colour"},
	{"\x1b[>4;2m a key's meaning", "^[[>4;2m a key's meaning"},
	{"\x1b[" + strings.Repeat("1;", 40) + "m long", "^[[" + strings.Repeat("1;", 40) + "m long"},
	{"\u009b2J\u009d0;owned\u009c C1", "M-^[2JM-^]0;ownedM-^\\ C1"},
	{"a\bb\x00c\x7f\x0e\v\f", "a^Hb^@c^?^N^K^L"},
	{"\r\x1b[K\x1b[Kover\x1b[K", "^Mover"},
	{"\x1b", "^["},
	{"\x1b[3", "^[[3"},
	{"<script>alert(1)</script> & <b>", "<script>alert(1)</script> & <b>"},
	{"日本語 🧊 é", "日本語 🧊 é"},
	{"\x9b2J \xff", "\ufffd2J \ufffd"},
}

func TestAppendLine(t *testing.T) {
	const red = "\x1b[1;38;5;9mred\x1b[0m, \x1b[4:3mwavy"
	tests := append(hostile, struct{ line, shown string }{red, red + resetColors})
	for _, test := range tests {
		if got := appendLine(nil, []byte(test.line), true); string(got) != test.shown {
			t.Errorf("%q: got %q, want %q", test.line, got, test.shown)
		}
	}
	if got := appendLine(nil, []byte(red), false); string(got) != "red, wavy" {
		t.Errorf("without colours: %q", got)
	}
}

func FuzzAppendLine(f *testing.F) {
	for _, test := range hostile {
		f.Add([]byte(test.line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		for _, color := range []bool{false, true} {
			got := appendLine(nil, line, color)
			if !utf8.Valid(got) {
				t.Fatalf("%q becomes %q, which is not UTF-8", line, got)
			}
			for rest := got; len(rest) > 0; {
				if n := colors(rest); n > 0 && color {
					rest = rest[n:]
					continue
				}
				r, size := utf8.DecodeRune(rest)
				if r < ' ' && r != '\t' || 0x7f <= r && r < 0xa0 {
					t.Fatalf("%q becomes %q", line, got)
				}
				rest = rest[size:]
			}
			if color && bytes.Contains(got, []byte("\x1b[")) && !bytes.HasSuffix(got, []byte(resetColors)) {
				t.Fatalf("%q becomes %q, whose colours go on", line, got)
			}
		}
	})
}

// hostileJob prints all of the hostile lines, and names things by them.
func hostileJob(b *builderConn) {
	b.accept()
	for _, test := range hostile {
		b.lines(strings.ToValidUTF8(test.line, "\ufffd"))
	}
	b.event(schemas.PhaseEvent{Phase: "\x1b]0;owned\a"})
	b.event(schemas.DerivationEvent{Derivation: "/nix/store/h-\x1b[2J.drv", State: schemas.DerivationFailed, Phase: "\x1bc", Log: []string{"\x1b[2J"}})
	b.end(schemas.Unable("\x1b]0;owned\a.", "\x1b[2J"), &schemas.VerdictEvent{Phases: []schemas.PhaseTime{{Phase: "\x1bc"}}, Commit: "\x1bc"})
	b.untilGone()
}

// TestHostileLogOnTerminal looks at what a log does to a terminal that does what it is told.
func TestHostileLogOnTerminal(t *testing.T) {
	term := termtest.Open(t, 120, 40)
	<-submit(t, Options{URL: startBuilder(t, true, hostileJob), Stdout: term.TTY, now: newClock().Now})
	var want []string
	for _, test := range hostile {
		line := strings.ToValidUTF8(test.line, "\ufffd")
		want = append(want, string(appendLine(nil, []byte(line), true)))
	}
	want = append(want, "", "^[[2J failed in ^[c; its last lines:", "  ^[[2J", "",
		"Failed after 0.0s: ^[]0;owned^G. ^[[2J", "  phases  ^[c 0.0s", "  commit  ^[c")
	term.Want(strings.Join(want, "\n"))
	if term.Title() != "" || term.Bells() > 0 {
		t.Errorf("title %q, %d bells", term.Title(), term.Bells())
	}
}

// TestHostileLogInFile has every byte come through where there is no terminal.
func TestHostileLogInFile(t *testing.T) {
	var stdout, want, stderr bytes.Buffer
	got := <-submit(t, Options{URL: startBuilder(t, true, hostileJob), Stdout: &stdout, Stderr: &stderr})
	for _, test := range hostile {
		want.WriteString(strings.ToValidUTF8(test.line, "\ufffd") + "\n")
	}
	if stdout.String() != want.String() {
		t.Errorf("got %q\nwant %q", &stdout, &want)
	}
	if text := stderr.String() + got.err.Error(); strings.ContainsAny(text, "\x1b\a") {
		t.Errorf("standard error gets %q", text)
	}
}
