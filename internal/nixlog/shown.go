package nixlog

import (
	"strings"

	"iglu.sh/builder/internal/nixstore"
)

// The texts in Nix's log for programs have colours. Nix omits them from what it prints for people if that is
// not a terminal. This file reproduces what Nix would print on a terminal.

// The colours of the name that Nix prints before a line of a builder: ANSI_FAINT and ANSI_NORMAL of its
// ansicolor.hh.
const (
	faint  = "\x1b[2m"
	normal = "\x1b[0m"
)

// OnShown sets a function that is called with each text that Nix has probably printed for people right before.
// The text has one or more lines with colours, without the end of the last. Nix may also have omitted it or
// printed it differently. OnShown must be called before Read. Calls of show do not overlap.
func (l *Log) OnShown(show func(text string)) { l.show = show }

// shownLine returns a line of a derivation's builder as Nix prints it.
func shownLine(derivation, text string) string {
	_, name := nixstore.DerivationName(derivation)
	return faint + withoutVersion(name) + "> " + normal + strings.TrimRight(text, " \n\r\t")
}

// withoutVersion returns a name up to the first hyphen that is not followed by a letter (DrvName in Nix's
// names.cc).
func withoutVersion(name string) string {
	for i := range len(name) - 1 {
		if name[i] == '-' && !isLetter(name[i+1]) {
			return name[:i]
		}
	}
	return name
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
