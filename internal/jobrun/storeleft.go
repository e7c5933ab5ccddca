package jobrun

import (
	"context"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Where Nix's own sandbox is off, a builder can make any entry in the store's folder, because its group may write there.
// Nix opens PATH.lock as root, creates it, and follows links. So a builder could make the builds of later jobs fail or
// hang: by a folder or a link with the name of such a lock, or by a link that makes Nix create a file where it needs a
// folder later, or a lock that looks stale. And very many entries would take too much memory.

// removeLeft removes from a store what builders have made by themselves, and locks, those included that Nix has made
// where a builder wanted it. Nothing else may use the store meanwhile.
func (s store) removeLeft() error {
	folder, state := filepath.Join(s.root, "store"), filepath.Join(s.root, "var")
	var of unix.Stat_t
	if err := unix.Lstat(folder, &of); err != nil {
		return nil // not every image has a store
	}
	err := removeEntries(folder, func(in int, entry *unix.Stat_t) (enter, remove bool) {
		return in == unix.AT_FDCWD, isForeign(entry, &of) || isLock(entry)
	})
	if err != nil {
		return err
	}
	return removeEntries(state, func(_ int, entry *unix.Stat_t) (enter, remove bool) {
		return entry.Mode&unix.S_IFMT == unix.S_IFDIR && entry.Uid != jobUID, isLock(entry)
	})
}

// removeEntries removes entries of a folder, and of those folders in it that the walk enters, as choose returns.
func removeEntries(root string, choose func(in int, entry *unix.Stat_t) (enter, remove bool)) error {
	for removed := -1; removed != 0; { // removing could hide entries from the walk
		removed = 0
		err := walkTree(context.Background(), root, false, func(in int, name string, stat *unix.Stat_t) (bool, error) {
			enter, remove := choose(in, stat)
			if !remove || in == unix.AT_FDCWD {
				return enter, nil
			}
			removed++
			if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
				return false, unix.Unlinkat(in, name, 0)
			}
			return false, removeTree(filepath.Join(root, name)) // folders are removed from the root only
		})
		if err != nil {
			return fmt.Errorf("remove from %s what builds have left: %w", root, err)
		}
	}
	return nil
}

// isForeign reports whether only a member of a folder's group can have made an entry in it. All that Nix has made belongs
// to root. What an image has may belong to others, but not with that group.
func isForeign(entry, folder *unix.Stat_t) bool {
	return entry.Uid != 0 && entry.Uid != folder.Uid && entry.Gid == folder.Gid
}

// isLock reports whether a file is like a lock of Nix (pathlocks.cc), which has one byte if it is stale. A path of the
// store has other permissions.
func isLock(file *unix.Stat_t) bool {
	return file.Mode == unix.S_IFREG|0o600 && file.Uid == 0 && file.Size <= 1
}
