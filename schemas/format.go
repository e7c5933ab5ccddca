package schemas

import (
	"encoding/json"
	"strings"
	"time"
)

// A Format is one of the two wire formats of jobs and messages. The answers to a job have the job's format.
type Format int

const (
	// Document is the format of the Iglu Builder's documentation. Everything that is sent before a job has
	// been read has this format.
	Document Format = iota
	// Stack is the format of today's Iglu stack; see stack.go.
	Stack
)

// The known properties of a job in each format. The properties in decides are only in jobs of that format.
var (
	documentProperties = []string{"git", "buildOptions", "nix", "colors", "system"}
	stackProperties    = []string{"git_config", "build_options", "cachix_config", "builder", "nix", "colors"}
	decides            = map[Format][]string{Document: documentProperties[:2], Stack: stackProperties[:3]}
)

// findFormat finds a job's format by the names of its properties. It adds a problem if the job has both.
func (r *Refusal) findFormat(top map[string]json.RawMessage) {
	document, stack := first(top, decides[Document]), first(top, decides[Stack])
	switch {
	case document != "" && stack != "":
		r.valueError("", "the job has "+document+" of one form and "+stack+" of the other; send it in one")
	case stack != "":
		r.format = Stack
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

// named returns a text with the format's names of properties. The rules for a Request use only the names of
// the document.
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
	"system", "builder.arch",
)

// Encode returns a message as one line of JSON without a line end. at is the time at which it is sent, which
// only the format Stack contains.
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
