// Package isolation tests what keeps a job in its container, and its secrets from everything else in there.
// It needs a container engine: see docs/development.md.
package isolation
