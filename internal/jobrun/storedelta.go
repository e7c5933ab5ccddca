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
	names := namesIn(storeFolder)
	paths := make(map[string]bool, len(names))
	for _, name := range names {
		paths[name] = true
	}
	return paths
}

// namesIn returns the names in a folder, unsorted, or nothing if it cannot be read. A store can have 100,000: os.ReadDir
// would sort them, and make an object for each.
func namesIn(folder string) []string {
	file, err := os.Open(folder)
	if err != nil {
		return nil // not every image has a store
	}
	defer file.Close()
	names, _ := file.Readdirnames(-1)
	return names
}

// storeDelta returns how many bytes of the disk the new paths of the store use. Measuring the whole store
// would take too long for a short job.
func storeDelta(ctx context.Context, before map[string]bool) (bytes int64) {
	if before == nil {
		return 0
	}
	for _, name := range namesIn(storeFolder) {
		if !before[name] {
			n, _ := diskUsage(ctx, filepath.Join(storeFolder, name)) // it may be removed meanwhile
			bytes += n
		}
	}
	return bytes
}
