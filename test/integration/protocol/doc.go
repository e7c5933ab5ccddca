// Package protocol tests the protocol, from outside.
// It needs a container engine: see docs/development.md.
package protocol
