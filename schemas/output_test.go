package schemas

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzLines compares the fast encoder with the plain one.
func FuzzLines(f *testing.F) {
	for _, line := range []string{
		"", "plain", `"quoted" \ back`, "\x00\x01\b\t\n\f\r\x1b[1m\x1f\x7f", "<&>", "\u2028 \u2029 \u2027 \u202a",
		"日本語 é 🧊", "\ufffd", "\u20ac\u2028", strings.Repeat("a", 300) + "\n" + strings.Repeat("b", 300),
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if !utf8.ValidString(line) {
			return
		}
		for _, form := range forms {
			want := "before" + string(form.Encode(Output(line), sentAt))
			if got := string(form.Lines(sentAt).Append([]byte("before"), []byte(line))); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			cut, ok := CutOutput([]byte(want)[len("before"):])
			if plain := !strings.Contains(want, `\`); ok != plain || (ok && string(cut) != line) {
				t.Errorf("%s was cut to %q, %v", want, cut, ok)
			}
		}
	})
}

// CutOutput refuses messages that are similar to a line.
func TestCutOutputOfOthers(t *testing.T) {
	for _, message := range []string{
		``, `{"stdout":"`, `{"stdout":"a"}`, `{"stdout":"a","jobStatus":"running"`, `"stdout":"a","jobStatus":"running"}`,
		`{"stdout":"a","jobStatus":"running","timestamp":1`, `{"stdout":"a\"","jobStatus":"running"}`, `{"stdout":"a","msg":"b","jobStatus":"running","timestamp":1}`,
		`{"msg":"a","jobStatus":"running","timestamp":1}`, `{"stdout":"a","jobStatus":"failed","timestamp":1}`, `}`, `1}`,
	} {
		if line, ok := CutOutput([]byte(message)); ok {
			t.Errorf("%s was cut to %q", message, line)
		}
	}
}

func BenchmarkLines(b *testing.B) {
	line := []byte(strings.Repeat("x", 77))
	for _, form := range forms {
		b.Run(formNames[form], func(b *testing.B) {
			dst := make([]byte, 0, 1024)
			lines := form.Lines(sentAt)
			b.SetBytes(int64(len(line)))
			b.ReportAllocs()
			for b.Loop() {
				dst = lines.Append(dst[:0], line)
			}
		})
	}
}
