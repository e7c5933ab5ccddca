// Package podman tests the builder on Podman: a job of each kind, and jobs on two nodes. In the long suite,
// other packages also run their tests of engines on Podman.
// It needs Podman: see docs/development.md.
package podman
