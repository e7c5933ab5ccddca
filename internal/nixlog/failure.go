package nixlog

import (
	"cmp"
	"path"
	"strings"

	"iglu.sh/builder/internal/lazyregexp"
	"iglu.sh/builder/internal/termtext"
)

// A Failure is why Nix has failed, as far as it has said so.
type Failure struct {
	// Derivation is the path of the first that could not be built itself; empty if Nix failed without
	// one, for example while it evaluated.
	Derivation string
	// Text is what went wrong, in a line: what Nix said, or else the last line of the derivation's log.
	// It may be empty, and it may hold secrets.
	Text string
}

// A failedBuild is that of the first derivation that has failed.
type failedBuild struct {
	derivation string
	log        *lastLines // nil if there is none
	said       string     // by Nix; empty: nothing yet
}

// Failure returns why Nix has failed. No process may be read any more.
func (l *Log) Failure() Failure {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.failed
	if f.derivation == "" {
		return Failure{Text: l.lastError}
	}
	if f.said != "" && !builderFailed().MatchString(f.said) || f.log == nil {
		return Failure{f.derivation, f.said}
	}
	return Failure{f.derivation, cmp.Or(lastText(f.log.lines), f.said)}
}

// builderFailed is how Nix says that a builder has ended with an exit code, of which its log tells more.
var builderFailed = lazyregexp.New(`^builder .*failed|^Cannot build `)

// fail notes that a derivation has failed, and what Nix has said of it, if anything. The first counts, but
// one that Nix has named counts for more than one whose end was only counted.
func (l *Log) fail(a *activity, said string) {
	if l.failed.derivation == "" || l.failed.said == "" && said != "" {
		l.failed = failedBuild{a.derivation, a.log, said}
	}
}

// hasFailed takes an error that names no derivation of which the end is not known yet.
func (l *Log) hasFailed(message, place string) {
	switch f := &l.failed; {
	case f.derivation == "":
		l.lastError = errorOf(message, place)
	case f.said == "" && strings.Contains(message, f.derivation):
		f.said = reasonOf(message, f.derivation)
	}
}

// lastText returns the last line that holds something.
func lastText(lines []string) string {
	for i := len(lines) - 1; i >= 0; i-- {
		if text := visible(lines[i]); text != "" {
			return text
		}
	}
	return ""
}

// visible returns a line as it is seen, without colours.
func visible(line string) string { return strings.TrimSpace(termtext.Visible(line)) }

// reasonOf returns what an error of Nix's says of a derivation, in a line.
func reasonOf(message, derivation string) string {
	var lines []string
	for line := range strings.Lines(message) {
		line = visible(strings.TrimRight(line, "\n"))
		if reason, ok := strings.CutPrefix(line, "Reason: "); ok { // of Nix 2.30 and later
			return strings.TrimSuffix(reason, ".")
		}
		lines = append(lines, line)
	}
	text := strings.Join(strings.Fields(strings.Join(lines, " ")), " ")
	text = strings.ReplaceAll(text, "in fixed-output derivation '"+derivation+"':", "in fixed output,")
	text = strings.ReplaceAll(text, "'"+derivation+"'", path.Base(derivation))
	return strings.TrimRight(text, ".,")
}

// errorOf returns the first line of an error of Nix's, and the place that it is about.
func errorOf(message, place string) string {
	text, _, _ := strings.Cut(strings.TrimSpace(message), "\n")
	if text = visible(text); text != "" && strings.HasPrefix(place, "/") {
		text += ", at " + visible(place)
	}
	return text
}
