// Package redact masks secrets in text: in the lines that a build prints, in error messages, and in the server's
// own log.
//
// New returns a Redactor for the secrets of one job. Redactor.String masks them in a text, Redactor.Lines in a
// stream of lines, and Redactor.Handler in a log.
//
// A secret is found as it is and as tools commonly print it: in base64 (at any position
// in a larger encoded text, also wrapped at 64 or more columns), in hex, percent-encoded, in
// JSON strings and quoted for a shell (forms.go), even with ANSI escape sequences inside. The password in a
// URL such as https://user:password@host is masked even if it is not a known secret.
//
// All forms of all secrets are one Aho-Corasick automaton (automaton.go). So a text
// is read once, in a time that is linear in its length, for any number of
// secrets. Most text never reaches the automaton: a small table of the
// bytes that forms begin with excludes it, several bytes at a time.
//
// Redaction protects from accidents. A build that has a secret and wants it in its
// log can always print it in a form that nothing finds.
package redact

import (
	"strings"
	"sync"
	"sync/atomic"
)

// mask replaces a secret. Its length does not depend on that of the secret.
const mask = "***"

// minSecret is the length of the shortest secret that is masked, and of the shortest form, in bytes. Shorter ones
// would mask unrelated text in many places of a log.
const minSecret = 6

// A Redactor masks the secrets of one job. It is safe for concurrent use. A nil Redactor has no secrets, but still masks
// the passwords in URLs. A Redactor needs memory of up to a thousand times the length of its secrets: see Shrink.
type Redactor struct {
	secrets []string // nil if they have no forms
	forms   atomic.Pointer[automaton]
}

// New returns a Redactor for secrets. White space around a secret is ignored, and so are secrets shorter than 6
// bytes. If a secret has several lines, as a private key does, each line of at least 6 bytes is a secret, too, except
// for PEM's BEGIN and END lines.
func New(secrets ...string) *Redactor {
	r := &Redactor{secrets: secrets}
	if r.automaton() == nil {
		r.secrets = nil
	}
	return r
}

// compiling is held while an automaton is made, which takes several times its memory: one at a time for all jobs.
var compiling sync.Mutex

// automaton returns the automaton of all forms, or nil if there are none.
func (r *Redactor) automaton() *automaton {
	if r == nil || r.secrets == nil {
		return nil
	}
	if a := r.forms.Load(); a != nil {
		return a
	}
	compiling.Lock()
	defer compiling.Unlock()
	if a := r.forms.Load(); a != nil { // another goroutine has made it meanwhile
		return a
	}
	var forms []string
	for _, secret := range r.secrets {
		forms = appendForms(forms, secret)
	}
	a := compile(forms)
	r.forms.Store(a)
	return a
}

// Shrink frees nearly all memory of r, until r is used again. That takes a moment, because the automaton is made again.
func (r *Redactor) Shrink() { r.forms.Store(nil) }

// String returns s with its secrets masked. It also finds a secret that is wrapped over several lines.
func (r *Redactor) String(s string) string {
	lines := r.Lines()
	out := make([]byte, 0, len(s))
	for rest, more := s, true; more; {
		var line string
		line, rest, more = strings.Cut(rest, "\n")
		line, crlf := strings.CutSuffix(line, "\r")
		out = lines.Append(out, []byte(line), false)
		if crlf {
			out = append(out, '\r')
		}
		if more {
			out = append(out, '\n')
		}
	}
	if string(out) == s {
		return s
	}
	return string(out)
}

// Lines returns the state for one stream of lines, at the stream's start.
func (r *Redactor) Lines() *Lines {
	return &Lines{redactor: r}
}
