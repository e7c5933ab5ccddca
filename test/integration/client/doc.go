// Package client tests the client: iglu-builder build, on a terminal and off one.
// It needs a container engine: see docs/development.md.
package client
