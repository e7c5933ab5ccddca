// Package podman tries the builder on Podman: a job of each kind, and one on each of two
// nodes. In the long suite
// the other packages run all of their tests that an engine has a part in there as well.
package podman
