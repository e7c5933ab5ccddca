package nixlog

import (
	"cmp"
	"path"
	"strings"

	"iglu.sh/builder/internal/lazyregexp"
	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/internal/termtext"
)

// A Failure is the reason why Nix has failed, if it is known.
type Failure struct {
	// Derivation is the path of the first derivation whose own build failed. It is empty if no build
	// failed, for example after an error in the evaluation.
	Derivation string
	// Text is a line with the reason: Nix's error, or else the last line of the derivation's log. It may
	// be empty, and it may contain secrets.
	Text string
}

// A failedBuild is the build of the first derivation that has failed.
type failedBuild struct {
	derivation string
	log        *lastLines // nil if there is none
	said       string     // Nix's error about it; empty: none yet
}

// Failure returns why Nix has failed. All calls of Read must have returned.
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

// builderFailed matches an error that says only that a builder has failed. The builder's log then says more.
var builderFailed = lazyregexp.New(`^builder .*failed|^Cannot build `)

// fail notes that a derivation has failed. said is Nix's error about it, or "". The first failure is kept, but
// one with an error is preferred to one without.
func (l *Log) fail(a *activity, said string) {
	l.several = l.several || l.failed.derivation != "" && l.failed.derivation != a.derivation
	if l.failed.derivation == "" || l.failed.said == "" && said != "" {
		l.failed = failedBuild{a.derivation, a.log, said}
	}
}

// noteError processes an error that contains no undecided derivation.
func (l *Log) noteError(message, place string) {
	f, refused := &l.failed, cannotBuild(message)
	vague := sumsUp().MatchString(reasonOf(message, refused))
	switch {
	case f.said != "":
	case f.derivation != "" && !vague && strings.Contains(message, f.derivation):
		f.said = reasonOf(message, f.derivation)
	case f.derivation != "" && !l.several && timedOut().MatchString(visible(message)):
		f.said = reasonOf(message, f.derivation)
	case refused != "" && !vague && !l.started[refused] && len(l.started) < maxStarted:
		*f = failedBuild{derivation: refused, said: reasonOf(message, refused)}
	case f.derivation == "" && (l.lastError == "" || !vague):
		l.lastError = errorOf(message, place)
	}
}

// maxStarted is how many derivations are kept whose builds have started.
const maxStarted = maxPlanned

// refusal matches Nix's error about a derivation that it cannot build. sumsUp matches the reasons of errors that only
// follow from others, which Nix has printed before.
var (
	refusal = lazyregexp.New(`^Cannot build '([^']+)'`)
	sumsUp  = lazyregexp.New(`^\d+ dependenc(y|ies) failed$|^\d+ dependenc(y|ies) of derivation '.*' failed to build|^build of .* failed$|` +
		`^some errors were encountered during the evaluation`)
)

// timedOut matches the error about a build that took too long or printed nothing for too long. Later versions of Nix do not
// say which build that is (TimedOut in goal.cc).
var timedOut = lazyregexp.New(`^timed out after \d+ seconds`)

// cannotBuild returns the derivation that Nix cannot build, according to its error, or "". If its build has not started,
// it needs another system, for example.
func cannotBuild(message string) string {
	first, _, _ := strings.Cut(message, "\n")
	if match := refusal().FindStringSubmatch(visible(first)); match != nil && nixstore.IsDerivation(match[1]) {
		return match[1]
	}
	return ""
}

// lastText returns the last line that is not blank.
func lastText(lines []string) string {
	for i := len(lines) - 1; i >= 0; i-- {
		if text := visible(lines[i]); text != "" {
			return text
		}
	}
	return ""
}

// visible returns a line without colours and control characters.
func visible(line string) string { return strings.TrimSpace(termtext.Visible(line)) }

// reasonOf returns the reason in Nix's error about a derivation, in a line.
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

// errorOf returns the first line of Nix's error, with its location.
func errorOf(message, place string) string {
	text, _, _ := strings.Cut(strings.TrimSpace(message), "\n")
	if text = visible(text); text != "" && strings.HasPrefix(place, "/") {
		text += ", at " + visible(place)
	}
	return text
}
