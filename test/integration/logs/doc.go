// Package logs tests the log, the events, the history and the metrics of jobs.
// It needs a container engine: see docs/development.md.
package logs
