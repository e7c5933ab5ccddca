// Package nix tests the flake. The Nix of the job image evaluates the package, the module with every option
// set, the shell and the NixOS test. A small replacement for nixpkgs is in testdata/nixpkgs.
// It needs a container engine: see docs/development.md.
package nix
