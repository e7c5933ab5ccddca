// Package client tests the command-line client, iglu-builder build, with and without a terminal.
// It needs a container engine: see docs/development.md.
package client
