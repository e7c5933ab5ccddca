//go:build !race

package cachix

// hugeSize is the size of the archive of TestMemory, in bytes.
const hugeSize = 300 << 20
