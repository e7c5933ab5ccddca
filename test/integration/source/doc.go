// Package source tests sources: real git servers over http, https and ssh.
// It needs a container engine: see docs/development.md.
package source
