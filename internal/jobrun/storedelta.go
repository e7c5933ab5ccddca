package jobrun

import (
	"context"
	"os"
	"path/filepath"
)

// storeFolder is where Nix keeps what is built.
const storeFolder = "/nix/store"

// cacheHome is the variable that says where Nix caches what it has evaluated and fetched.
const cacheHome = "XDG_CACHE_HOME"

// storePaths returns the names of what is in the store, or nil if that does not outlive the job.
func storePaths(outlives bool) map[string]bool {
	if !outlives {
		return nil
	}
	names := make(map[string]bool)
	entries, _ := os.ReadDir(storeFolder) // as far as it can be read; not every image has one
	for _, entry := range entries {
		names[entry.Name()] = true
	}
	return names
}

// storeDelta returns how many bytes of the disk those paths of the store take that were not there
// before. To measure all of it would take a short job much of its time.
func storeDelta(ctx context.Context, before map[string]bool) (bytes int64) {
	if before == nil {
		return 0
	}
	for name := range storePaths(true) {
		if !before[name] {
			n, _ := diskUsage(ctx, filepath.Join(storeFolder, name)) // it may go meanwhile
			bytes += n
		}
	}
	return bytes
}
