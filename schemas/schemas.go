// Package schemas is the wire format of the builder: the published JSON Schemas, the
// types Request and Response that they describe, and ParseRequest, the one function
// that turns a client's bytes into a Request.
//
// There are two forms of it, the documentation's and that of today's Iglu stack, each
// with a schema for jobs and one for messages. A job becomes the same Request in
// either; its Form encodes the messages that answer it.
//
// It imports nothing of this module but the word splitter and the redactor, so that server,
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
