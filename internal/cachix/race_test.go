//go:build race

package cachix

// hugeSize is the size of the archive of TestMemory, in bytes. The race detector makes
// a copy of a byte twenty times as slow; what is left is half as much again as the bound.
const hugeSize = 48 << 20
