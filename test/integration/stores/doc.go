// Package stores tests the Nix stores that outlive jobs.
// It needs a container engine: see docs/development.md.
package stores
