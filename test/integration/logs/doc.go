// Package logs tests a job's log, its events and the numbers that are kept of it.
// It needs a container engine: see docs/development.md.
package logs
