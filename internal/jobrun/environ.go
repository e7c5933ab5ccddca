package jobrun

import (
	"slices"
	"strings"
)

// storeVariables are Nix's own that put its store, or what it keeps with it, elsewhere
// than in the container's /nix (globals.cc and local-fs-store.hh of Nix). Those that say
// where its settings are stay: a job adds to the image's.
var storeVariables = []string{
	"NIX_REMOTE", "NIX_DAEMON_SOCKET_PATH", "NIX_STORE", "NIX_STORE_DIR", "NIX_STATE_DIR", "NIX_LOG_DIR", "NIX_DB_DIR",
	"NIX_CACHE_HOME",
}

// withoutStoreVariables returns an environment without what a job image sets of these, and
// the names of what it had set.
func withoutStoreVariables(environ []string) (kept, removed []string) {
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		switch {
		case !slices.Contains(storeVariables, name):
			kept = append(kept, entry)
		case value != "":
			removed = append(removed, name)
		}
	}
	return kept, removed
}
