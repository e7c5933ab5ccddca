//go:build race

package cachix

// hugeSize is the size of the archive of TestMemory, in bytes. The race detector makes
// a copy of a byte twenty times as slow; what is left is more than twice the bound.
const hugeSize = 72 << 20
