package schemas

import (
	"fmt"
	"slices"
	"strings"
)

type refusalKind int

const (
	notJSON        refusalKind = iota // not one JSON document
	badSchema                         // the published schema is not met
	badRule                           // a rule beyond the schema is not met
	unknownCommand                    // the command is not one of those allowed
)

// A Refusal says why a message is not a job: everything that is wrong with it.
type Refusal struct {
	kind     refusalKind
	form     Format // in whose names of properties the problems are
	problems []problem
	command  string // of unknownCommand
}

// A problem is one thing that is wrong with a job: which property and why, never its value.
type problem struct {
	path string // dotted; empty is the whole job
	why  string
}

func (p problem) String() string {
	if p.path == "" {
		return p.why
	}
	return p.path + ": " + p.why
}

// reason tells every problem.
func (r *Refusal) reason() string {
	var reasons []string
	for _, p := range r.problems {
		reasons = append(reasons, p.String())
	}
	return strings.Join(reasons, "; ")
}

// isAbout reports whether something is wrong with a property or with one that it is in.
func (r *Refusal) isAbout(path string) bool {
	return slices.ContainsFunc(r.problems, func(p problem) bool {
		return p.path == "" || p.path == path || strings.HasPrefix(path, p.path+".")
	})
}

// add notes a problem. The kind is that of the first one.
func (r *Refusal) add(kind refusalKind, path, why string) {
	if len(r.problems) == 0 {
		r.kind = kind
	}
	r.problems = append(r.problems, problem{path, why})
}

// schemaError notes a property that breaks the published schema.
func (r *Refusal) schemaError(path, why string) { r.add(badSchema, path, why) }

// valueError notes a property that breaks a rule beyond the schema, unless it, or what it is
// in, is wrong already.
func (r *Refusal) valueError(path, why string) {
	if !r.isAbout(path) {
		r.add(badRule, path, why)
	}
}

// isEmpty reports whether nothing is wrong.
func (r *Refusal) isEmpty() bool { return len(r.problems) == 0 }

// Error returns the reason for the server's log. It holds no value of the request.
func (r *Refusal) Error() string {
	switch r.kind {
	case notJSON:
		return "not a valid JSON: " + r.reason()
	case unknownCommand:
		return "command not allowed: " + r.reason()
	default:
		return "request refused: " + r.reason()
	}
}

// Kind returns the kind of the refusal in a word, of which there are few: "malformed" is no
// JSON, "invalid" breaks the schema or a rule, "command" is for a command that is not allowed.
func (r *Refusal) Kind() string {
	switch r.kind {
	case notJSON:
		return "malformed"
	case unknownCommand:
		return "command"
	default:
		return "invalid"
	}
}

// Response returns the message to send before the connection is closed.
func (r *Refusal) Response() Response {
	switch r.kind {
	case notJSON:
		return Response{Error: "Not a valid JSON", Msg: r.reason(), JobStatus: Failed}
	case unknownCommand:
		return Response{
			Error:     fmt.Sprintf("Invalid command: '%s'", r.command),
			Msg:       r.reason(),
			JobStatus: Failed,
		}.WithExitCode(exitUsage)
	default:
		return Response{Error: "JSON schema is not valid.", Msg: r.reason(), JobStatus: Failed}
	}
}

// exitUsage is the exit code that the documentation gives an invalid command.
const exitUsage = 2
