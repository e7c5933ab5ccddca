package history

import (
	"encoding/json"
	"strings"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/textcut"
)

// A Record is what the builder stores about one job. The API returns it in the same format.
type Record struct {
	Job        string `json:"id"`
	Repository string `json:"repository,omitempty"` // without a user's name or key
	Branch     string `json:"branch,omitempty"`
	Command    string `json:"command"`
	Client     string `json:"client,omitempty"` // the address of the client that sent it
	// Node is the node of the cluster on which the job runs or has run last. It is empty while the job
	// waits, and without a cluster.
	Node string `json:"node,omitempty"`
	// Begun is when the job was accepted, Started when it got a slot, and Ended when its last message was
	// written. Started is zero if it has not got a slot. Ended is zero if it has not ended, or its builder
	// was killed.
	Begun   time.Time `json:"begun"`
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	// End is how the job ended; empty while it runs.
	End jobend.End `json:"end,omitempty"`
	// ExitCode is nil if the job has none.
	ExitCode *int `json:"exitCode,omitempty"`
	// Reason says in one line why the job failed. It is empty if the job did not fail.
	Reason string `json:"reason,omitempty"`
	// Error and Msg are those of the last message to the client.
	Error  string `json:"error,omitempty"`
	Msg    string `json:"msg,omitempty"`
	Commit string `json:"commit,omitempty"`
	Lines  int64  `json:"lines"` // how many lines the log has
	// Request, Results and Verdict are the parts of a record. Each is nil if it is longer than maxPart.

	// Request is the job's request without secrets, in the format of the documentation. It is nil for jobs of
	// earlier versions.
	Request json.RawMessage `json:"request,omitempty"`
	// Secrets are the names of the request's secrets, which are not stored: gitKey, accessTokens, netrc, apiKey,
	// signingKey. It is empty for jobs of earlier versions.
	Secrets []string `json:"secrets,omitempty"`
	// Results is the event with the results of the job, as docs/protocol.md describes it.
	Results json.RawMessage `json:"results,omitempty"`
	// Verdict is the event with which the job ended, as docs/protocol.md describes it.
	Verdict json.RawMessage `json:"verdict,omitempty"`
}

// Runs reports whether the job has not ended. This includes a job that waits for a slot.
func (r Record) Runs() bool { return r.End == "" }

// Waits reports whether the job waits for a slot.
func (r Record) Waits() bool { return r.Runs() && r.Started.IsZero() }

// Succeeded reports whether the job ended by itself with exit code 0.
func (r Record) Succeeded() bool {
	return r.ExitCode != nil && *r.ExitCode == 0 && r.End == jobend.Exited
}

// bounded returns r with long texts cut, and without long parts.
func (r Record) bounded() Record {
	for _, text := range []*string{&r.Repository, &r.Branch, &r.Command, &r.Reason, &r.Error, &r.Msg, &r.Commit} {
		*text = textcut.Short(*text, maxText)
	}
	for _, part := range []*json.RawMessage{&r.Request, &r.Results, &r.Verdict} {
		if len(*part) > maxPart {
			*part = nil
		}
	}
	return r
}

func (r Record) withoutParts() Record {
	r.Request, r.Results, r.Verdict = nil, nil, nil
	return r
}

// WithoutUser returns a repository's address without the user name and the key that may precede its host.
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
