// Package nar writes Nix archives (NAR) of what is in a store. The format is the one of
// figure 5.2 in Eelco Dolstra's thesis, "The Purely Functional Software Deployment Model":
// nested strings, each with its length in front and padded with zeros to 8 bytes.
//
// The strings are those of go-nix's package wire. Its package nar is not used: it
// cannot write names that begin with two dots.
package nar

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/nix-community/go-nix/pkg/wire"
)

// magic is the first string of every archive.
const magic = "nix-archive-1"

// writeBuffer is how many bytes go to the writer of Dump at once; more is no faster.
const writeBuffer = 64 << 10

// Dump writes the archive of the file, link or folder at path to w, as
// 'nix-store --dump' does. It stops at the first error of w.
func Dump(w io.Writer, path string) error {
	d := &dumper{w: bufio.NewWriterSize(w, writeBuffer)}
	d.strings(magic)
	d.node(path)
	if d.err == nil {
		d.err = d.w.Flush()
	}
	if d.err != nil {
		return fmt.Errorf("archive %s: %w", path, d.err)
	}
	return nil
}

// A dumper writes until something fails, and nothing after that.
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

// node writes what lies at path.
func (d *dumper) node(path string) {
	if d.err != nil {
		return
	}
	info, err := os.Lstat(path)
	if err != nil {
		d.err = err
		return
	}
	d.strings("(", "type")
	switch mode := info.Mode(); {
	case mode.IsRegular():
		d.regular(path, info)
	case mode.IsDir():
		d.directory(path)
	case mode&os.ModeSymlink != 0:
		d.symlink(path)
	default:
		d.err = fmt.Errorf("%s is neither a file nor a folder nor a link", path)
	}
	d.strings(")")
}

// executable is the one permission that an archive knows: that of the owner.
const executable = 0o100

func (d *dumper) regular(path string, info os.FileInfo) {
	d.strings("regular")
	if info.Mode()&executable != 0 {
		d.strings("executable", "")
	}
	d.strings("contents")
	if d.err == nil {
		d.err = d.contents(path, info.Size())
	}
}

func (d *dumper) contents(path string, size int64) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := wire.WriteUint64(d.w, uint64(size)); err != nil {
		return err
	}
	n, err := d.w.ReadFrom(io.LimitReader(file, size))
	if err != nil {
		return err
	}
	if n != size {
		return fmt.Errorf("%s became shorter while it was read", path)
	}
	_, err = d.w.Write(make([]byte, -size&7)) // padding to 8 bytes
	return err
}

// directory writes the entries in the order of the bytes of their names, in which
// os.ReadDir returns them.
func (d *dumper) directory(path string) {
	d.strings("directory")
	entries, err := os.ReadDir(path)
	d.err = cmp.Or(d.err, err)
	for _, entry := range entries {
		d.strings("entry", "(", "name", entry.Name(), "node")
		d.node(filepath.Join(path, entry.Name()))
		d.strings(")")
	}
}

func (d *dumper) symlink(path string) {
	target, err := os.Readlink(path)
	d.err = cmp.Or(d.err, err)
	d.strings("symlink", "target", target)
}
