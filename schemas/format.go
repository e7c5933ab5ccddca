package schemas

import (
	"encoding/json"
	"strings"
	"time"
)

// A Format is one of the two in which jobs and messages are written. Whoever sends a job in
// one is answered in it.
type Format int

const (
	// Document is the form of the Iglu Builder's documentation, and of all that is sent
	// before a job is understood.
	Document Format = iota
	// Stack is the form of today's Iglu stack; see stack.go.
	Stack
)

// The properties of a job that are known in each form. Those in decides are in no job of
// the other form.
var (
	documentProperties = []string{"git", "buildOptions", "nix", "colors"}
	stackProperties    = []string{"git_config", "build_options", "cachix_config", "builder", "nix", "colors"}
	decides            = map[Format][]string{Document: documentProperties[:2], Stack: stackProperties[:3]}
)

// findForm tells a job's form by the names of its properties, and notes if that cannot be told.
func (r *Refusal) findForm(top map[string]json.RawMessage) {
	document, stack := first(top, decides[Document]), first(top, decides[Stack])
	switch {
	case document != "" && stack != "":
		r.valueError("", "the job has "+document+" of one form and "+stack+" of the other; send it in one")
	case stack != "":
		r.form = Stack
	}
}

// first returns the first of some names that a job has, or "".
func first(top map[string]json.RawMessage, names []string) string {
	for _, name := range names {
		if _, ok := top[name]; ok {
			return name
		}
	}
	return ""
}

// named returns a text in the form's own names of properties. The rules for a Request know
// only the document's.
func (f Format) named(text string) string {
	if f == Stack {
		return stackNames.Replace(text)
	}
	return text
}

var stackNames = strings.NewReplacer(
	"buildOptions.cachix.", "cachix_config.",
	"buildOptions.trustedPublicKeys", "build_options.substituters.public_signing_keys",
	"buildOptions.", "build_options.",
	"git.", "git_config.",
	"gitUsername", "gitusername",
	"gitKey", "gitkey",
	"requiresAuth", "requiresauth",
	"noClone", "noclone",
	"maxJobs", "maxjobs",
	"extraArgs", "extraargs",
	"apiKey", "apikey",
	"signingKey", "signingkey",
)

// Encode returns a message as one line of JSON without a line end. at is when it is sent,
// which the document's form does not tell.
func (f Format) Encode(r Response, at time.Time) []byte {
	if f == Document {
		return r.Encode()
	}
	r.ChildExitCode = nil
	return encode(struct {
		Response
		Timestamp int64 `json:"timestamp"` // in milliseconds since 1970
	}{r, at.UnixMilli()})
}
