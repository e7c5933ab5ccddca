// Package isolation tests that a job cannot leave its container, and that its secrets stay hidden from other
// programs in the container.
// It needs a container engine: see docs/development.md.
package isolation
