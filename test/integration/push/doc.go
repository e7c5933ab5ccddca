// Package push tests pushes to caches, which real Nix reads.
// It needs a container engine: see docs/development.md.
package push
