// Package faults tests what is left when the engine, the server or a client dies, or a call of the engine fails.
// It needs a container engine: see docs/development.md.
package faults
