// Package narcheck checks Nix archives (NAR) as strictly as Nix does. [Check] reads one archive. It is
// stricter than the reader of go-nix's package nar, which accepts names such as "..", duplicate names and
// padding that is not zero. Tests check the archives that the builder writes and uploads with it.
package narcheck

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/nix-community/go-nix/pkg/wire"
)

// magic is the first string of every archive.
const magic = "nix-archive-1"

// Limits of an archive's content, in bytes except maxDepth: those of Linux for names and paths (NAME_MAX,
// PATH_MAX), and as many nested folders as fit in a path.
const (
	maxName   = 255
	maxTarget = 4095
	maxDepth  = 2048
	maxWord   = len(magic) // the longest word of the format itself
)

// Check reads one archive from r to its end and returns an error that says what is wrong with it. It
// returns nil only for an archive that Nix would unpack, with nothing after it. An error of r is wrapped.
func Check(r io.Reader) error {
	c := &checker{r: bufio.NewReader(r)}
	err := c.words(magic)
	if err == nil {
		err = c.node(0)
	}
	if err != nil {
		return fmt.Errorf("not a Nix archive: %w", err)
	}
	if _, err := c.r.ReadByte(); err == nil {
		return errors.New("not a Nix archive: it has data after its end")
	} else if err != io.EOF {
		return err
	}
	return nil
}

type checker struct{ r *bufio.Reader }

// text reads one string of at most longest bytes.
func (c *checker) text(longest int) (string, error) {
	size, field, err := wire.ReadBytes(c.r)
	if err != nil {
		return "", unexpected(err)
	}
	if size > uint64(longest) {
		return "", fmt.Errorf("a string of %d bytes where at most %d are allowed", size, longest)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(field, text); err != nil {
		return "", unexpected(err)
	}
	return string(text), unexpected(field.Close()) // which reads the padding
}

// unexpected turns io.EOF into io.ErrUnexpectedEOF: the archive ends too early.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// words reads strings and compares them with those that the format requires.
func (c *checker) words(want ...string) error {
	for _, word := range want {
		got, err := c.text(maxWord)
		if err != nil {
			return err
		}
		if got != word {
			return fmt.Errorf("%q in place of %q", got, word)
		}
	}
	return nil
}

// node reads a file, a link or a folder with all that is in it.
func (c *checker) node(depth int) error {
	if err := c.words("(", "type"); err != nil {
		return err
	}
	kind, err := c.text(maxWord)
	if err != nil {
		return err
	}
	switch kind {
	case "regular":
		return c.regular()
	case "symlink":
		return c.symlink()
	case "directory":
		return c.directory(depth)
	}
	return fmt.Errorf("a node of the type %q", kind)
}

func (c *checker) regular() error {
	word, err := c.text(maxWord)
	if err == nil && word == "executable" {
		if err = c.words(""); err == nil {
			word, err = c.text(maxWord)
		}
	}
	if err != nil {
		return err
	}
	if word != "contents" {
		return fmt.Errorf("%q in place of %q", word, "contents")
	}
	size, field, err := wire.ReadBytes(c.r)
	if err != nil {
		return unexpected(err)
	}
	n, err := io.Copy(io.Discard, field)
	if err != nil {
		return err
	}
	if uint64(n) != size {
		return io.ErrUnexpectedEOF
	}
	if err := field.Close(); err != nil { // which reads the padding
		return unexpected(err)
	}
	return c.words(")")
}

func (c *checker) symlink() error {
	if err := c.words("target"); err != nil {
		return err
	}
	target, err := c.text(maxTarget)
	if err != nil {
		return err
	}
	if target == "" || strings.ContainsRune(target, 0) {
		return fmt.Errorf("a link to %q", target)
	}
	return c.words(")")
}

// directory reads the entries of a folder. Their names must be in ascending order.
func (c *checker) directory(depth int) error {
	if depth == maxDepth {
		return fmt.Errorf("more than %d nested folders", maxDepth)
	}
	last := ""
	for {
		word, err := c.text(maxWord)
		if err != nil {
			return err
		}
		if word == ")" {
			return nil
		}
		if word != "entry" {
			return fmt.Errorf("%q in a folder", word)
		}
		if last, err = c.entry(last, depth); err != nil {
			return err
		}
	}
}

// entry reads one entry of a folder and returns its name. last is the name of the entry before it.
func (c *checker) entry(last string, depth int) (string, error) {
	if err := c.words("(", "name"); err != nil {
		return "", err
	}
	name, err := c.text(maxName)
	if err != nil {
		return "", err
	}
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return "", fmt.Errorf("an entry of the name %q", name)
	}
	if name <= last {
		return "", fmt.Errorf("the entry %q after %q", name, last)
	}
	if err := c.words("node"); err != nil {
		return "", err
	}
	if err := c.node(depth + 1); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return name, c.words(")")
}
