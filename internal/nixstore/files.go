package nixstore

import (
	"bufio"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"syscall"
)

const (
	// maxDerivation is how many bytes are read of a .drv file. What is of interest stands
	// before: some 100,000 paths at most.
	maxDerivation = 16 << 20
	// maxUnpacked is how many bytes are read of a derivation's log: some tenths of a second.
	maxUnpacked = 16 << 20
	// maxPart is the length in bytes of the parts that a long line comes in.
	maxPart = 64 << 10
)

// Files are what the files of a store tell, without a daemon. They lie below Root, which is
// empty for the store of this machine.
type Files struct{ Root string }

// Derivation reads the .drv file at a path of the store.
func (f Files) Derivation(drv string) (Derivation, error) {
	file, err := f.open(drv)
	if err != nil {
		return Derivation{}, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxDerivation))
	if err != nil {
		return Derivation{}, err
	}
	return ParseDerivation(text)
}

// open opens a file, and nothing that a job has put in its place on which to wait, or that leads
// elsewhere.
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

// Has reports whether a path is there and Nix is through with it: while it builds or fetches
// one, and where that has failed, a lock lies beside.
func (f Files) Has(storePath string) bool {
	_, err := os.Lstat(f.Root + storePath)
	_, lock := os.Lstat(f.Root + storePath + ".lock")
	return err == nil && os.IsNotExist(lock)
}

// Log gives take the log that Nix keeps of a derivation's build, line by line and without
// their ends. A long line comes in parts, of which all but the last go on. A log that is very
// long, or that Nix has not kept, is an error.
func (f Files) Log(drv string, take func(part string, goesOn bool)) error {
	name := path.Base(drv) // in folders by the first two characters, so that none has too many
	if len(name) < 2 {
		return fmt.Errorf("%s is no derivation", drv)
	}
	file, err := f.open(path.Join("/nix/var/log/nix/drvs", name[:2], name[2:]+".bz2"))
	if err != nil {
		return err
	}
	defer file.Close()
	limited := &io.LimitedReader{R: bzip2.NewReader(file), N: maxUnpacked}
	for r := bufio.NewReaderSize(limited, maxPart); ; {
		part, goesOn, err := r.ReadLine()
		switch {
		case err == io.EOF && limited.N > 0:
			return nil
		case err == io.EOF:
			return fmt.Errorf("the log of %s is longer than %d bytes", drv, maxUnpacked)
		case err != nil:
			return err
		}
		take(string(part), goesOn)
	}
}
