package narcheck

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	gonix "github.com/nix-community/go-nix/pkg/nar"
	"github.com/nix-community/go-nix/pkg/wire"
)

// archive joins strings in the format of an archive.
func archive(texts ...string) string {
	var b bytes.Buffer
	for _, text := range texts {
		wire.WriteString(&b, text)
	}
	return b.String()
}

// entries returns a folder that contains empty folders.
func entries(names ...string) string {
	texts := []string{magic, "(", "type", "directory"}
	for _, name := range names {
		texts = append(texts, "entry", "(", "name", name, "node", "(", "type", "directory", ")", ")")
	}
	return archive(append(texts, ")")...)
}

// whole is an archive with every kind of content.
var whole = archive(magic, "(", "type", "directory",
	"entry", "(", "name", "..two", "node", "(", "type", "regular", "contents", "", ")", ")",
	"entry", "(", "name", "a", "node", "(", "type", "regular", "executable", "", "contents", "twelve bytes", ")", ")",
	"entry", "(", "name", "b", "node", "(", "type", "symlink", "target", "../nowhere", ")", ")",
	"entry", "(", "name", "c", "node", "(", "type", "directory",
	"entry", "(", "name", "x", "node", "(", "type", "regular", "contents", "eight888", ")", ")", ")", ")",
	")")

func TestCheckTakes(t *testing.T) {
	if err := Check(iotest.DataErrReader(strings.NewReader(whole))); err != nil {
		t.Error(err)
	}
}

// An archive that is cut off at any byte is an error.
func TestCheckTruncated(t *testing.T) {
	for n := range whole {
		if err := Check(strings.NewReader(whole[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("the first %d of %d bytes: error %v, want %v", n, len(whole), err, io.ErrUnexpectedEOF)
		}
	}
}

func TestCheckPassesOnErrors(t *testing.T) {
	broken := errors.New("broken")
	for _, n := range []int{0, 5, 100, len(whole)} {
		r := io.MultiReader(strings.NewReader(whole[:n]), iotest.ErrReader(broken))
		if err := Check(r); !errors.Is(err, broken) {
			t.Errorf("after %d bytes: error %v, want %v", n, err, broken)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	file := archive(magic, "(", "type", "regular", "contents", "x", ")")
	deep := archive(magic) + strings.Repeat(archive("(", "type", "directory", "entry", "(", "name", "x", "node"), maxDepth+2)
	for name, text := range map[string]string{
		"other magic":        archive("nix-archive-2", "(", "type", "directory", ")"),
		"no type":            archive(magic, "(", "directory", ")"),
		"unknown type":       archive(magic, "(", "type", "fifo", ")"),
		"long word":          archive(magic, "(", "type", strings.Repeat("x", 99), ")"),
		"no contents":        archive(magic, "(", "type", "regular", ")"),
		"executable yes":     archive(magic, "(", "type", "regular", "executable", "yes", "contents", "x", ")"),
		"more in a file":     archive(magic, "(", "type", "regular", "contents", "x", "y", ")"),
		"something after it": file + "x",
		"padding":            strings.Replace(file, "x\x00\x00", "x\x00\x01", 1),
		"padding of a word":  strings.Replace(file, "(\x00\x00", "(\x00\x01", 1),
		"enormous file":      archive(magic, "(", "type", "regular", "contents") + "\xff\xff\xff\xff\xff\xff\xff\xff",
		"link to nothing":    archive(magic, "(", "type", "symlink", "target", "", ")"),
		"link with a zero":   archive(magic, "(", "type", "symlink", "target", "a\x00b", ")"),
		"long link":          archive(magic, "(", "type", "symlink", "target", strings.Repeat("x", maxTarget+1), ")"),
		"no name":            entries(""),
		"dot":                entries("."),
		"dot dot":            entries(".."),
		"slash":              entries("a/b"),
		"zero":               entries("a\x00"),
		"long name":          entries(strings.Repeat("x", maxName+1)),
		"twice":              entries("a", "a"),
		"not in order":       entries("b", "a"),
		"too deep":           deep,
		"other entry":        archive(magic, "(", "type", "directory", "file", ")"),
	} {
		t.Run(name, func(t *testing.T) {
			if err := Check(strings.NewReader(text)); err == nil || errors.Is(err, io.ErrUnexpectedEOF) && name != "enormous file" {
				t.Errorf("error %v, want one that says what is wrong", err)
			}
		})
	}
	if err := Check(strings.NewReader(entries("a", "b"))); err != nil {
		t.Errorf("the archive that the above differ from: %v", err)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte(entries("a", "b")))
	f.Add([]byte(archive(magic, "(", "type", "regular", "executable", "", "contents", "x", ")")))
	f.Add([]byte(archive(magic, "(", "type", "symlink", "target", "x", ")")))
	f.Fuzz(func(t *testing.T, text []byte) {
		if Check(bytes.NewReader(text)) != nil {
			return
		}
		// go-nix accepts everything that Check accepts.
		r, err := gonix.NewReader(bytes.NewReader(text))
		for err == nil {
			_, err = r.Next()
		}
		if err != io.EOF {
			t.Errorf("go-nix: %v", err)
		}
	})
}
