// Package schemas is the wire format of the builder: what a client sends, and what the builder answers.
//
// ParseRequest turns the bytes of a client's message into a Request, or into a Refusal that says everything that is
// wrong with it. A Response is one message to the client. An Event is something that happens in a
// job besides its output, and a Message is a line, an event or a Response with a number and a time, for
// clients that want events. RequestSchema and ResponseSchema are the published JSON Schemas of the same.
//
// There are two formats: that of the Iglu Builder's documentation, and that of today's Iglu stack. A job in either
// becomes the same Request. ParseRequest also returns the job's Form, which encodes the answers in the job's
// format.
//
// The package imports only the word splitter and the redactor of this module, so that server,
// client and tests can all speak the format without knowing each other.
package schemas

import _ "embed"

// BuildPath is where a builder takes jobs, as a WebSocket.
const BuildPath = "/api/v1/build"

// RequestSchema is the JSON Schema of a job as a client sends it, to the letter of
// the Iglu Builder's documentation.
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
