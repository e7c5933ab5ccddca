package schemas

import "fmt"

type refusalKind int

const (
	notJSON        refusalKind = iota // not one JSON document
	badSchema                         // the published schema is not met
	badRule                           // a rule beyond the schema is not met
	unknownCommand                    // the command is not one of those allowed
)

// A Refusal says why a message is not a job.
type Refusal struct {
	kind    refusalKind
	reason  string // which property and why, never its value
	command string // of unknownCommand
}

// Error returns the reason for the server's log. It holds no value of the request.
func (r *Refusal) Error() string {
	switch r.kind {
	case notJSON:
		return "not a valid JSON"
	case unknownCommand:
		return "command not allowed: " + r.reason
	default:
		return "request refused: " + r.reason
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
		return Response{Error: "Not a valid JSON", JobStatus: Failed}
	case unknownCommand:
		return Response{
			Error:     fmt.Sprintf("Invalid command: '%s'", r.command),
			Msg:       r.reason,
			JobStatus: Failed,
		}.WithExitCode(exitUsage)
	default:
		return Response{Error: "JSON schema is not valid.", Msg: r.reason, JobStatus: Failed}
	}
}

// exitUsage is the exit code that the documentation gives an invalid command.
const exitUsage = 2

func badShape(path, why string) *Refusal {
	return &Refusal{kind: badSchema, reason: join(path, why)}
}

func brokenRule(path, why string) *Refusal {
	return &Refusal{kind: badRule, reason: join(path, why)}
}

func join(path, why string) string {
	if path == "" {
		return why
	}
	return path + ": " + why
}
