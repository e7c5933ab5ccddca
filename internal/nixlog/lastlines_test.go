package nixlog

import (
	"encoding/base64"
	"strings"
	"testing"

	"iglu.sh/builder/internal/redact"
)

func noSecrets() *redact.Redactor { return nil }

// Secrets are masked where lines are cut: at the end of a long line, between the parts of a line, and
// before the first line that is kept.
func TestLastLinesHidesSecrets(t *testing.T) {
	secret := strings.Repeat("0123456789abcdef", 20)
	encoded := base64.StdEncoding.EncodeToString([]byte(secret))
	begin := strings.Repeat("x ", (maxKeptLine-20)/2)
	for _, test := range []struct {
		name string
		add  func(*lastLines)
		want int // lines
	}{
		{"end", func(t *lastLines) { t.add(begin+secret, false) }, 1},
		{"parts", func(t *lastLines) { t.add("a "+secret[:100], true); t.add(secret[100:], true); t.add(" b", false) }, 1},
		{"lines", func(t *lastLines) {
			for ; len(encoded) > 76; encoded = encoded[76:] {
				t.add(encoded[:76], false)
			}
			t.add(encoded, false)
			for range keptLines - 3 {
				t.add("more", false)
			}
		}, keptLines},
	} {
		log := &lastLines{secrets: redact.New(secret).Lines()}
		test.add(log)
		if text := strings.Join(log.lines, "\n"); len(log.lines) != test.want || strings.Contains(text, "cdef") || strings.Contains(text, "NkZWY") || !strings.Contains(text, "***") {
			t.Errorf("%s: %q", test.name, log.lines)
		}
	}
}
