// Package protocol tests the WebSocket protocol and the HTTP interface as clients see them.
// It needs a container engine: see docs/development.md.
package protocol
