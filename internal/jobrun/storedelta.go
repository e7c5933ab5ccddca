package jobrun

import (
	"context"
	"os"
	"path/filepath"
)

// storeFolder is where Nix keeps what is built.
const storeFolder = "/nix/store"

// cacheHome is the variable with the folder in which Nix caches what it has evaluated and fetched.
const cacheHome = "XDG_CACHE_HOME"

// storePaths returns the names of the paths in the store, or nil if the store is not kept after the job.
func storePaths(outlives bool) map[string]bool {
	if !outlives {
		return nil
	}
	names := make(map[string]bool)
	entries, _ := os.ReadDir(storeFolder) // not every image has one
	for _, entry := range entries {
		names[entry.Name()] = true
	}
	return names
}

// storeDelta returns how many bytes of the disk the new paths of the store use. Measuring the whole store
// would take too long for a short job.
func storeDelta(ctx context.Context, before map[string]bool) (bytes int64) {
	if before == nil {
		return 0
	}
	for name := range storePaths(true) {
		if !before[name] {
			n, _ := diskUsage(ctx, filepath.Join(storeFolder, name)) // it may be removed meanwhile
			bytes += n
		}
	}
	return bytes
}
