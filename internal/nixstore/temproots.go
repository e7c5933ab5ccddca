package nixstore

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
)

// tempRoots is where each process of Nix has a file, named by its id, of the store paths that it
// is about: each is followed by a NUL (gc.cc of Nix). What is there is not collected as garbage
// while the process lasts, which removes its file.
const tempRoots = "/nix/var/nix/temproots"

// maxTempRoots is how many bytes are read of one of these files: some 100,000 paths.
const maxTempRoots = 16 << 20

// TempRoots calls found for each store path that a process of Nix has as a temporary root. What
// cannot be read is left out: it may be gone.
func (f Files) TempRoots(found func(storePath string)) {
	entries, _ := os.ReadDir(f.Root + tempRoots) // there is none before the first process
	for _, entry := range entries {
		file, err := f.open(path.Join(tempRoots, entry.Name()))
		if err != nil {
			continue
		}
		text, _ := io.ReadAll(io.LimitReader(file, maxTempRoots))
		file.Close()
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

// ForgetTempRoots removes what processes have left that were killed.
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
