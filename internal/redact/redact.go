// Package redact removes secrets from text: from the lines that a build prints, from
// error sentences, and from the server's own log.
//
// A secret is looked for as it is and as tools commonly print it: in base64 (wherever
// in a larger encoded text, also wrapped at 76 columns), hex, percent-encoding and
// JSON strings; see forms.go. ANSI escape sequences may stand inside it. The key of a
// URL like https://user:key@host is masked whether it is a known secret or not.
//
// All forms of all secrets are one Aho-Corasick automaton (automaton.go), so a text
// is passed over once, in a time that is linear in its length for any number of
// secrets and any text. Most text never reaches the automaton: a small table of the
// bytes that forms begin with rules it out several bytes at a time.
//
// Redaction guards against accidents. A build that holds a secret and wants it in its
// log can always print it in a way that nothing finds.
package redact

import "strings"

// mask stands in place of a secret. Its length says nothing about the secret's.
const mask = "***"

// minSecret is the length in bytes of the shortest secret that is masked, and of the
// shortest form. Shorter ones would be found all over a log by chance.
const minSecret = 6

// A Redactor knows the secrets of one job. It never changes and is safe for
// concurrent use. A nil Redactor knows no secrets, and still masks the keys of URLs.
type Redactor struct {
	forms *automaton // nil if there are none
}

// New returns a Redactor for secrets, without the white space around each. Those
// shorter than 6 bytes are ignored. Of a secret of several lines, such as a private
// key, each line of at least 6 bytes is a secret too, except for PEM's BEGIN and END.
func New(secrets ...string) *Redactor {
	var forms []string
	for _, secret := range secrets {
		forms = appendForms(forms, secret)
	}
	return &Redactor{forms: compile(forms)}
}

// String returns s with its secrets masked. Lines in it count as lines of a stream:
// a secret that is wrapped over some of them is found.
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
	if r == nil {
		return new(Lines)
	}
	return &Lines{forms: r.forms}
}
