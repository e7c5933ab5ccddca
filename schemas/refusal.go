package schemas

import (
	"fmt"
	"slices"
	"strings"
)

type refusalKind int

const (
	notJSON        refusalKind = iota // not one JSON document
	badSchema                         // the job does not match the published schema
	badRule                           // the job breaks a rule that the schema does not have
	unknownCommand                    // the command is not allowed
)

// A Refusal has what is wrong with a message that is not a valid job.
type Refusal struct {
	kind     refusalKind
	format   Format // the problems have its names of properties
	problems []problem
	more     int    // how many problems there are after the first maxProblems, which alone are kept
	command  string // for unknownCommand
}

// maxProblems is how many problems a refusal lists. A message can have a hundred thousand.
const maxProblems = 50

// A problem is one thing that is wrong with a job: the property and the reason, never the value.
type problem struct {
	path string // with dots; empty: the whole job
	why  string
}

func (p problem) String() string {
	if p.path == "" {
		return p.why
	}
	return p.path + ": " + p.why
}

// reason returns all problems as one text.
func (r *Refusal) reason() string {
	var reasons []string
	for _, p := range r.problems {
		reasons = append(reasons, p.String())
	}
	if r.more > 0 {
		reasons = append(reasons, fmt.Sprintf("and %d more", r.more))
	}
	return strings.Join(reasons, "; ")
}

// isAbout reports whether there is a problem with a property or with an object that contains it.
func (r *Refusal) isAbout(path string) bool {
	return slices.ContainsFunc(r.problems, func(p problem) bool {
		return p.path == "" || p.path == path || strings.HasPrefix(path, p.path+".")
	})
}

// add adds a problem. The first problem sets the kind of the refusal.
func (r *Refusal) add(kind refusalKind, path, why string) {
	if len(r.problems) == 0 {
		r.kind = kind
	}
	if len(r.problems) == maxProblems {
		r.more++
		return
	}
	r.problems = append(r.problems, problem{path, why})
}

// schemaError adds a property that does not match the published schema.
func (r *Refusal) schemaError(path, why string) { r.add(badSchema, path, why) }

// valueError adds a property that breaks a rule that the schema does not have, unless there already is a
// problem with it or with an object that contains it.
func (r *Refusal) valueError(path, why string) {
	if !r.isAbout(path) {
		r.add(badRule, path, why)
	}
}

// isEmpty reports whether there are no problems.
func (r *Refusal) isEmpty() bool { return len(r.problems) == 0 }

// Error returns the reason for the server's log. It contains no value of the request.
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

// Kind returns the kind of the refusal, for metrics: "malformed" if the message is not JSON, "invalid" if it
// breaks the schema or a rule, or "command" if the command is not allowed.
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
		}.withExitCode(exitUsage)
	default:
		return Response{Error: "JSON schema is not valid.", Msg: r.reason(), JobStatus: Failed}
	}
}

// exitUsage is the exit code of an invalid command in the documentation.
const exitUsage = 2
