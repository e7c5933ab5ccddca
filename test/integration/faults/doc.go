// Package faults tests the cleanup after a crash of the engine, the server or a client, and after failed
// calls to the engine.
// It needs a container engine: see docs/development.md.
package faults
