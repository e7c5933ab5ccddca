package nixlog

import (
	"strings"

	"iglu.sh/builder/internal/redact"
)

const (
	// keptLines is how many lines of a derivation's log are told when it fails.
	keptLines = 20
	// maxKeptLine is how many bytes of each of them are kept.
	maxKeptLine = 4 << 10
)

// A lastLines keeps the last lines of a log. Secrets are masked before anything is cut off: of a
// part of one, nobody could tell later what it is.
type lastLines struct {
	secrets *redact.Lines
	lines   []string
	open    bool // the last line goes on
}

// add adds a line, or a part of one that goes on with the next, and returns it without secrets.
func (t *lastLines) add(part string, goesOn bool) (masked string) {
	clean := t.secrets.Append(nil, []byte(strings.ToValidUTF8(part, "\ufffd")), goesOn)
	if !t.open {
		if len(t.lines) == keptLines {
			t.lines = append(t.lines[:0:0], t.lines[1:]...)
		}
		t.lines = append(t.lines, "")
	}
	last := &t.lines[len(t.lines)-1]
	*last += string(clean[:min(len(clean), maxKeptLine-len(*last))])
	t.open = goesOn
	return string(clean)
}
