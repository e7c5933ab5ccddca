// Package nix tests the flake: it has the Nix of the job image evaluate the package, the module with
// every option set, the shell and the NixOS test, with a small stand-in for nixpkgs (testdata/nixpkgs).
// It needs a container engine: see docs/development.md.
package nix
