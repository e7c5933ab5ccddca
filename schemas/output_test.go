package schemas

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzAppendOutput holds the quick encoder against the plain one.
func FuzzAppendOutput(f *testing.F) {
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
		want := "before" + string(Output(line).Encode())
		if got := string(AppendOutput([]byte("before"), []byte(line))); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		cut, ok := CutOutput([]byte(want)[len("before"):])
		if plain := !strings.Contains(want, `\`); ok != plain || (ok && string(cut) != line) {
			t.Errorf("%s was cut to %q, %v", want, cut, ok)
		}
	})
}

func BenchmarkAppendOutput(b *testing.B) {
	line := []byte(strings.Repeat("x", 77))
	dst := make([]byte, 0, 1024)
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		dst = AppendOutput(dst[:0], line)
	}
}
