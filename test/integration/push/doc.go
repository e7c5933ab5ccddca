// Package push tests pushes to binary caches. Real Nix reads the pushed paths.
// It needs a container engine: see docs/development.md.
package push
