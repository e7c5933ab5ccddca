// Package schemas is the wire format of the builder: what a client sends, and what the builder answers.
//
// ParseRequest reads a client's message. It returns a Request, or a Refusal with everything that is wrong with
// the message. A Response is one message to the client. An Event is something that happens in a
// job besides its output, and a Message is a line, an event or a Response with a number and a time, for
// clients of events. RequestSchema and ResponseSchema are the published JSON Schemas.
//
// There are two formats: that of the Iglu Builder's documentation, and that of today's Iglu stack. A job in either
// becomes the same Request. ParseRequest also returns the job's Format, which encodes the answers in that
// format.
//
// The package imports only leaves of this module, so that server, client and tests can use the format without
// importing each other.
package schemas

import _ "embed"

const (
	// BuildPath is the path of the WebSocket that accepts jobs.
	BuildPath = "/api/v1/build"
	// JobsPath is the path to which jobs without a connection are posted, and below which all jobs are found.
	JobsPath = "/api/v1/jobs"
)

// RequestSchema is the JSON Schema of a job, exactly as in the Iglu Builder's documentation.
//
//go:embed request.schema.json
var RequestSchema []byte

// ResponseSchema is the JSON Schema of every message that the builder sends. It is
// the documentation's with buildExitCode added: the documentation's schema names
// the exit code childExitCode and its examples buildExitCode, so both are sent.
//
//go:embed response.schema.json
var ResponseSchema []byte

// StackRequestSchema is the JSON Schema of a job as the scheduler of today's Iglu stack
// sends it.
//
//go:embed stack-request.schema.json
var StackRequestSchema []byte

// StackResponseSchema is the JSON Schema of every message that answers such a job: the
// documentation's with the time and with one name for the exit code, buildExitCode.
//
//go:embed stack-response.schema.json
var StackResponseSchema []byte
