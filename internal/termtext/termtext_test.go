package termtext

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
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
	{"\u202ereversed\u202c \u2066isolated\u2069 \u200fmark \u061c", "<U+202E>reversed<U+202C> <U+2066>isolated<U+2069> <U+200F>mark <U+061C>"},
	{"\x1b]52;c;aGVsbG8=\a clipboard", "^[]52;c;aGVsbG8=^G clipboard"},
	{"\x9b2J \xff", "\ufffd2J \ufffd"},
}

func TestAppendLine(t *testing.T) {
	const red = "\x1b[1;38;5;9mred\x1b[0m, \x1b[4:3mwavy"
	tests := append(hostile, struct{ line, shown string }{red, red + ResetColors})
	for _, test := range tests {
		if got := AppendLine(nil, []byte(test.line), true); string(got) != test.shown {
			t.Errorf("%q: got %q, want %q", test.line, got, test.shown)
		}
	}
	if got := AppendLine(nil, []byte(red), false); string(got) != "red, wavy" {
		t.Errorf("without colours: %q", got)
	}
}

func FuzzAppendLine(f *testing.F) {
	for _, test := range hostile {
		f.Add([]byte(test.line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		for _, color := range []bool{false, true} {
			got := AppendLine(nil, line, color)
			if !utf8.Valid(got) {
				t.Fatalf("%q becomes %q, which is not UTF-8", line, got)
			}
			for rest := got; len(rest) > 0; {
				if n := colors(rest); n > 0 && color {
					rest = rest[n:]
					continue
				}
				r, size := utf8.DecodeRune(rest)
				if r < ' ' && r != '\t' || 0x7f <= r && r < 0xa0 || isDirection(r) {
					t.Fatalf("%q becomes %q", line, got)
				}
				rest = rest[size:]
			}
			if color && bytes.Contains(got, []byte("\x1b[")) && !bytes.HasSuffix(got, []byte(ResetColors)) {
				t.Fatalf("%q becomes %q, whose colours go on", line, got)
			}
		}
	})
}

// What is escaped is the same to a program.
func TestAppendJSON(t *testing.T) {
	for text, want := range map[string]string{
		`{"a":"plain \n \u001b é"}`:                              `{"a":"plain \n \u001b é"}`,
		"{\"a\":\"\u009b2J \u007f \u202ex \u2066\u200e\u061c\"}": `{"a":"\u009b2J \u007f \u202ex \u2066\u200e\u061c"}`,
	} {
		got := AppendJSON(nil, []byte(text))
		if string(got) != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
		var before, after any
		if err := errors.Join(json.Unmarshal([]byte(text), &before), json.Unmarshal(got, &after)); err != nil || !reflect.DeepEqual(before, after) {
			t.Errorf("%s: %v becomes %v (%v)", text, before, after, err)
		}
	}
}
