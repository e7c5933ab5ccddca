package history

import (
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"iglu.sh/builder/internal/jobend"
)

// A Record is what is kept of one job. It is what the API answers, too.
type Record struct {
	Job        string `json:"id"`
	Repository string `json:"repository,omitempty"` // without a user's name or key
	Branch     string `json:"branch,omitempty"`
	Command    string `json:"command"`
	Client     string `json:"client,omitempty"` // the address that it was sent from
	// Node is on which of several nodes it runs, or has run last; empty while it waits, and if there is one
	// engine.
	Node string `json:"node,omitempty"`
	// Begun is when the job was accepted, Started when it got a slot, and Ended when its last
	// message was made. Started is zero while it waits, and if it never got one; Ended is zero
	// while it waits or runs, and where its builder died.
	Begun   time.Time `json:"begun"`
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	// End is how the job ended; empty while it runs.
	End jobend.End `json:"end,omitempty"`
	// ExitCode is nil where the job has none.
	ExitCode *int `json:"exitCode,omitempty"`
	// Reason says in a line why the job failed, as a headline; empty where it did not.
	Reason string `json:"reason,omitempty"`
	// Error and Msg are what the client was told of its end.
	Error  string `json:"error,omitempty"`
	Msg    string `json:"msg,omitempty"`
	Commit string `json:"commit,omitempty"`
	Lines  int64  `json:"lines"` // of the log
	// Request is what the job was asked to do, in the form of the documentation and without secrets; nil
	// if it is longer than maxRequest, and of jobs of earlier versions.
	Request json.RawMessage `json:"request,omitempty"`
	// Results is the event that says what the job has yielded, as docs/protocol.md describes it.
	Results json.RawMessage `json:"results,omitempty"`
	// Verdict is the event with which the job ended, as docs/protocol.md describes it.
	Verdict json.RawMessage `json:"verdict,omitempty"`
}

// Runs reports whether the job has not ended. It may wait for a slot still.
func (r Record) Runs() bool { return r.End == "" }

// Waits reports whether the job waits for a slot.
func (r Record) Waits() bool { return r.Runs() && r.Started.IsZero() }

// Succeeded reports whether the job did what it was asked to.
func (r Record) Succeeded() bool {
	return r.ExitCode != nil && *r.ExitCode == 0 && r.End == jobend.Exited
}

// bounded returns r with long texts cut.
func (r Record) bounded() Record {
	for _, text := range []*string{&r.Repository, &r.Branch, &r.Command, &r.Reason, &r.Error, &r.Msg, &r.Commit} {
		*text = short(*text)
	}
	if len(r.Request) > maxRequest {
		r.Request = nil
	}
	return r
}

func short(text string) string {
	if len(text) <= maxText {
		return text
	}
	end := maxText
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

// WithoutUser returns a repository's address without the user's name, and the key, that may
// stand before its host.
func WithoutUser(repository string) string {
	scheme, rest, isURL := strings.Cut(repository, "://")
	if !isURL {
		scheme, rest = "", repository
	}
	authority, path := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	authority = authority[strings.LastIndexByte(authority, '@')+1:]
	if !isURL {
		return authority + path
	}
	return scheme + "://" + authority + path
}
