package jobrun

import (
	"slices"
	"strings"
)

// storeVariables are the variables that make Nix use another store, or other data, than those in the
// container's /nix (globals.cc and local-fs-store.hh of Nix). Variables for the folder of Nix's
// settings are not in the list: a job's settings are added to the image's.
var storeVariables = []string{
	"NIX_REMOTE", "NIX_DAEMON_SOCKET_PATH", "NIX_STORE", "NIX_STORE_DIR", "NIX_STATE_DIR", "NIX_LOG_DIR", "NIX_DB_DIR",
	"NIX_CACHE_HOME",
}

// withoutStoreVariables removes these variables from an environment, and returns the names of those that
// it removed.
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
