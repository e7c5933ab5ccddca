// Package many tests several jobs at a time, and several builders on one engine.
// It needs a container engine: see docs/development.md.
package many
