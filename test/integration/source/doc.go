// Package source tests jobs that clone repositories from real git servers over HTTP, HTTPS and SSH.
// It needs a container engine: see docs/development.md.
package source
