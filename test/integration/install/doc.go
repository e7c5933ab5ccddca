// Package install tests the ways to run the builder: docker-compose.yml with the builder's
// own image, the stack in examples/iglu-stack, and the unit for systemd.
// It needs a container engine: see docs/development.md.
package install
