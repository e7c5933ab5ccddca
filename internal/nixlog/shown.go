package nixlog

import (
	"strings"

	"iglu.sh/builder/internal/nixstore"
)

// What Nix tells programs has the colours that it leaves out of what it prints for people where
// these have no terminal. This file says how Nix would print it on one.

// The colours of what Nix prints before a line of a builder: ANSI_FAINT and ANSI_NORMAL of its
// ansicolor.hh.
const (
	faint  = "\x1b[2m"
	normal = "\x1b[0m"
)

// OnShown has show called for each text that Nix may have printed for people right before, with its
// colours: lines, without the end of the last. Nix may also have left it out, or have printed
// it in another form. It is called one at a time, and to be set before a process is read.
func (l *Log) OnShown(show func(text string)) { l.show = show }

// shownLine returns how Nix prints a line of a derivation's builder.
func shownLine(derivation, text string) string {
	_, name := nixstore.DerivationName(derivation)
	return faint + withoutVersion(name) + "> " + normal + strings.TrimRight(text, " \n\r\t")
}

// withoutVersion returns the name of a package: up to the first hyphen that no letter follows (DrvName in
// Nix's names.cc).
func withoutVersion(name string) string {
	for i := range len(name) - 1 {
		if name[i] == '-' && !isLetter(name[i+1]) {
			return name[:i]
		}
	}
	return name
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
