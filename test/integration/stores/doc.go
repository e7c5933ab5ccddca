// Package stores tests Nix stores that are kept between jobs.
// It needs a container engine: see docs/development.md.
package stores
