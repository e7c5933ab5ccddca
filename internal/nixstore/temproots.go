package nixstore

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path"
)

// tempRoots is the folder in which each process of Nix has a file, named by its id, with the store paths that
// it uses, each followed by a NUL (gc.cc of Nix). The garbage collector keeps these paths until the process
// removes its file, at its end.
const tempRoots = "/nix/var/nix/temproots"

// TempRoots calls found for each store path that is a temporary root of a process of Nix. It skips files
// that it cannot read: they may have been removed meanwhile.
func (f Files) TempRoots(found func(storePath string)) {
	entries, _ := os.ReadDir(f.Root + tempRoots) // there is none before the first process
	for _, entry := range entries {
		text, _ := f.read(path.Join(tempRoots, entry.Name()))
		for {
			root, rest, ended := bytes.Cut(text, []byte{0})
			if !ended {
				break
			}
			if text = rest; IsPath(string(root)) {
				found(string(root))
			}
		}
	}
}

// ForgetTempRoots removes the files of processes that were killed.
func (f Files) ForgetTempRoots() error {
	entries, err := os.ReadDir(f.Root + tempRoots)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(path.Join(f.Root+tempRoots, entry.Name())))
	}
	return err
}
