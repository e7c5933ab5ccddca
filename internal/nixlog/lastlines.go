package nixlog

import (
	"slices"
	"strings"

	"iglu.sh/builder/internal/redact"
)

const (
	// keptLines is how many lines of a derivation's log are reported if it fails.
	keptLines = 20
	// maxKeptLine is how many bytes of each of these lines are kept.
	maxKeptLine = 4 << 10
)

// A lastLines keeps the last lines of a log. It masks secrets before it cuts a line, because a part of a
// secret could not be recognized later.
type lastLines struct {
	secrets *redact.Lines
	lines   []string
	open    bool // the last line continues
}

// add adds a line, or a part of a line if goesOn, and returns it with its secrets masked.
func (t *lastLines) add(part string, goesOn bool) (masked string) {
	clean := t.secrets.Append(nil, []byte(strings.ToValidUTF8(part, "\ufffd")), goesOn)
	if !t.open {
		if len(t.lines) == keptLines {
			t.lines = slices.Delete(t.lines, 0, 1)
		}
		t.lines = append(t.lines, "")
	}
	last := &t.lines[len(t.lines)-1]
	*last += string(clean[:min(len(clean), maxKeptLine-len(*last))])
	t.open = goesOn
	return string(clean)
}
