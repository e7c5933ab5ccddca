package nixstore

import (
	"bufio"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
	"unicode/utf8"

	"iglu.sh/builder/internal/textcut"
)

const (
	// maxFile is how many bytes of a .drv file or of a process's roots are read: enough for some 100,000 paths.
	maxFile = 16 << 20
	// maxUnpacked is the size of the longest log that is read, in bytes: it takes some tenths of a second.
	maxUnpacked = 16 << 20
	// maxPart is the length in bytes of the parts into which a long line is split.
	maxPart = 64 << 10
)

// Files reads the files of a store, without a daemon. They are below Root, which is empty for the store of
// this machine.
type Files struct{ Root string }

// Derivation reads the .drv file with this store path.
func (f Files) Derivation(drv string) (Derivation, error) {
	text, err := f.read(drv)
	if err != nil {
		return Derivation{}, err
	}
	return parseDerivation(text)
}

// read reads the beginning of a file, up to maxFile.
func (f Files) read(name string) ([]byte, error) {
	file, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxFile))
}

// open opens a regular file. A job may have replaced it: it follows no link, and does not wait for a pipe.
func (f Files) open(name string) (*os.File, error) {
	file, err := os.OpenFile(f.Root+name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		file.Close()
		return nil, errors.Join(fmt.Errorf("%s is no file", name), err)
	}
	return file, nil
}

// Has reports whether a path is in the store and complete. While Nix builds or fetches a path, and after
// that has failed, there is a lock file next to it.
func (f Files) Has(storePath string) bool {
	_, err := os.Lstat(f.Root + storePath)
	_, lock := os.Lstat(f.Root + storePath + ".lock")
	return err == nil && os.IsNotExist(lock)
}

// Log calls take with each line of the log that Nix keeps of a derivation's build, without the line's end.
// A long line is split into parts; goesOn is true for all parts but the last. It returns an error if Nix has
// kept no log, or a very long one.
func (f Files) Log(drv string, take func(part string, goesOn bool)) error {
	name := path.Base(drv) // the first two characters are the name of a folder
	if len(name) < 2 {
		return fmt.Errorf("%s is no derivation", drv)
	}
	log, err := f.openLog(path.Join("/nix/var/log/nix/drvs", name[:2], name[2:]))
	if err != nil {
		return err
	}
	defer log.Close()
	limited := &io.LimitedReader{R: log, N: maxUnpacked}
	r := bufio.NewReaderSize(limited, maxPart-utf8.UTFMax)
	for cut := ""; ; { // the beginning of a character at the end of the previous part
		text, goesOn, err := r.ReadLine()
		switch {
		case err == io.EOF && limited.N > 0:
			return nil
		case err == io.EOF:
			return fmt.Errorf("the log of %s is longer than %d bytes", drv, maxUnpacked)
		case err != nil:
			return err
		}
		part := cut + string(text)
		cut = ""
		if goesOn {
			whole := textcut.Whole(part)
			part, cut = part[:whole], part[whole:]
		}
		take(part, goesOn)
	}
}

// openLog opens a log, in the order of Nix (LocalFSStore::getBuildLogExact in local-fs-store.cc): with its setting
// compress-build-log = false it does not compress logs.
func (f Files) openLog(name string) (io.ReadCloser, error) {
	file, err := f.open(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	if file, err = f.open(name + ".bz2"); err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{bzip2.NewReader(file), file}, nil
}
