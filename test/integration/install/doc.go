// Package install tests the ways to install the builder: docker-compose.yml with the builder's image, the
// stack in examples/iglu-stack, the systemd unit, and the files of a release.
// It needs a container engine: see docs/development.md.
package install
