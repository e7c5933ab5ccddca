// Package nar writes Nix archives (NAR) of store paths. The format is described in figure 5.2 of Eelco
// Dolstra's thesis, "The Purely Functional Software Deployment Model": nested strings, each with its length
// before it and padded with zeros to 8 bytes.
//
// The package wire of go-nix writes the strings. The package nar of go-nix is not used, because it cannot
// write names that begin with two dots.
package nar

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/nix-community/go-nix/pkg/wire"
	"golang.org/x/sys/unix"
)

// magic is the first string of every archive.
const magic = "nix-archive-1"

// writeBuffer is the size of the writes to Dump's writer, in bytes. Larger ones are not faster.
const writeBuffer = 64 << 10

// Dump writes the archive of the file, link or folder at path to w, as 'nix-store --dump' does. It stops at
// the first error of w. It follows no links and stays on the same file system, even if files are replaced
// while it reads.
func Dump(w io.Writer, path string) error {
	d := &dumper{w: bufio.NewWriterSize(w, writeBuffer)}
	parent, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("archive %s: %w", path, err)
	}
	defer parent.Close()
	d.strings(magic)
	d.node(parent, filepath.Base(path))
	if d.err == nil {
		d.err = d.w.Flush()
	}
	if d.err != nil {
		return fmt.Errorf("archive %s: %w", path, d.err)
	}
	return nil
}

// A dumper writes an archive. After an error it writes no more.
type dumper struct {
	w   *bufio.Writer
	err error
}

func (d *dumper) strings(texts ...string) {
	for _, text := range texts {
		if d.err == nil {
			d.err = wire.WriteString(d.w, text)
		}
	}
}

// node writes the file, link or folder with a name in parent.
func (d *dumper) node(parent *os.File, name string) {
	if d.err != nil {
		return
	}
	// The type is read from the open file, so that it cannot change meanwhile.
	file, err := openBelow(parent, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if errors.Is(err, unix.ELOOP) {
		file, err = openBelow(parent, name, unix.O_PATH)
	}
	if err != nil {
		d.err = err
		return
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		d.err = err
		return
	}
	d.strings("(", "type")
	switch mode := info.Mode(); {
	case mode.IsRegular():
		d.regular(file, info)
	case mode.IsDir():
		d.directory(file)
	case mode&os.ModeSymlink != 0:
		d.symlink(file)
	default:
		d.err = fmt.Errorf("%s is neither a file nor a folder nor a link", file.Name())
	}
	d.strings(")")
}

// openBelow opens a file or folder in a folder. It follows no link, and opens nothing on another file system.
func openBelow(folder *os.File, name string, flags int) (*os.File, error) {
	path := filepath.Join(folder.Name(), name)
	flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC
	how := unix.OpenHow{Flags: uint64(flags), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV}
	fd, err := openat(func() (int, error) { return unix.Openat2(int(folder.Fd()), name, &how) })
	if err == unix.ENOSYS || err == unix.EPERM { // before Linux 5.6, or blocked by the engine
		fd, err = openat(func() (int, error) { return unix.Openat(int(folder.Fd()), name, flags, 0) })
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openat calls open again if it was interrupted.
func openat(open func() (int, error)) (fd int, err error) {
	for {
		// openat2(2): EAGAIN means that files were replaced at that moment.
		if fd, err = open(); err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// executable is the only permission that an archive has: that of the owner.
const executable = 0o100

func (d *dumper) regular(file *os.File, info os.FileInfo) {
	d.strings("regular")
	if info.Mode()&executable != 0 {
		d.strings("executable", "")
	}
	d.strings("contents")
	if d.err == nil {
		d.err = d.contents(file, info.Size())
	}
}

func (d *dumper) contents(file *os.File, size int64) error {
	if err := wire.WriteUint64(d.w, uint64(size)); err != nil {
		return err
	}
	n, err := d.w.ReadFrom(io.LimitReader(file, size))
	if err != nil {
		return err
	}
	if n != size {
		return fmt.Errorf("%s became shorter while it was read", file.Name())
	}
	_, err = d.w.Write(make([]byte, -size&7)) // padding to 8 bytes
	return err
}

// directory writes the entries of a folder, sorted by the bytes of their names.
func (d *dumper) directory(folder *os.File) {
	d.strings("directory")
	names, err := folder.Readdirnames(-1)
	d.err = cmp.Or(d.err, err)
	slices.Sort(names)
	for _, name := range names {
		d.strings("entry", "(", "name", name, "node")
		d.node(folder, name)
		d.strings(")")
	}
}

// maxTarget is the length in bytes of the longest target of a link: Linux's PATH_MAX.
const maxTarget = 4096

func (d *dumper) symlink(link *os.File) {
	target := make([]byte, maxTarget)
	n, err := unix.Readlinkat(int(link.Fd()), "", target)
	if err != nil && d.err == nil {
		d.err = &fs.PathError{Op: "readlink", Path: link.Name(), Err: err}
	}
	d.strings("symlink", "target", string(target[:max(n, 0)]))
}
