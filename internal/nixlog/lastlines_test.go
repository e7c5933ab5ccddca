package nixlog

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/schemas"
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

// TestLastLinesAllocate counts the allocations for a line after the first ones: the bytes that were masked, and two strings
// of them. What is kept moves in its place.
func TestLastLinesAllocate(t *testing.T) {
	log := &lastLines{secrets: redact.New("a secret").Lines()}
	line := strings.Repeat("text ", 20)
	add := func() { log.add(line, false) }
	for range keptLines {
		add()
	}
	if got := testing.AllocsPerRun(100, add); got > 4 {
		t.Errorf("%v allocations", got)
	}
	log.add("the last one", false)
	if n := len(log.lines); n != keptLines || log.lines[0] != line || log.lines[n-1] != "the last one" {
		t.Errorf("%d lines: %q", n, log.lines)
	}
}

// A long line of a builder is reported in parts, with its secrets masked across them, and no character is cut.
func TestLongLineOfBuilder(t *testing.T) {
	const secret = "0123456789"
	for shift := range 12 {
		line := strings.Repeat("é", maxPart/2-3) + strings.Repeat("x", shift) + secret + strings.Repeat(`é"`, maxPart)
		text, err := json.Marshal(line)
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		most := 0
		l := New(func(e schemas.Event) {
			if line, ok := e.(schemas.LineEvent); ok {
				got.WriteString(line.Text)
				most = max(most, len(line.Text))
			}
		}, nixstore.Files{Root: t.TempDir()}, func() *redact.Redactor { return redact.New(secret) })
		l.Read(strings.NewReader(starts(1, build) + "\n" + result(1, buildLogLine, string(text)) + "\n"))
		l.Close()
		// Fewer than 6 characters of a secret may be shown where a line is cut. More are masked twice.
		before, after, ok := strings.Cut(strings.Replace(got.String(), "******", "***", 1), "***")
		if !ok || !strings.HasPrefix(line, before) || !strings.HasSuffix(line, after) || len(before)+len(after) > len(line)-len(secret)+5 || most > maxPart {
			t.Errorf("%d more: %d and %d of %d bytes, in parts of up to %d bytes", shift, len(before), len(after), len(line), most)
		}
	}
}
