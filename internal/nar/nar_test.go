package nar

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	gonix "github.com/nix-community/go-nix/pkg/nar"
	"github.com/nix-community/go-nix/pkg/wire"
)

// folder makes a folder of everything that an archive can hold. dots says whether
// names that begin with two dots, which go-nix cannot write, are among it.
func folder(t *testing.T, dots bool) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	files := map[string]int{"empty": 0, "one": 1, "seven": 7, "eight": 8, "nine": 9, "large": 3*writeBuffer + 5,
		"a": 1, "a-b": 1, "a.b": 1, "A": 1, "with space": 1, "öä枝": 1, "new\nline": 1, "\xff": 1, "~": 1, ".hidden": 1,
		"folder/inside": 1, "folder-2": 1, "folder.d/x": 1, strings.Repeat("n", maxName): 1}
	if dots {
		files["..two"], files["..."] = 1, 1
	}
	for name, size := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, bytes.Repeat([]byte("x"), size), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(
		os.Chmod(filepath.Join(root, "nine"), 0o555),
		os.Chmod(filepath.Join(root, "eight"), 0o455), // others may run it, its owner not
		os.Mkdir(filepath.Join(root, "nothing"), 0o755),
		os.Symlink("../nowhere", filepath.Join(root, "link")),
		os.Symlink("one", filepath.Join(root, "folder/link")),
	)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func dump(t *testing.T, path string) []byte {
	t.Helper()
	var archive bytes.Buffer
	if err := Dump(&archive, path); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

// What is written is, to the byte, what go-nix writes, where it can.
func TestDumpAsGoNix(t *testing.T) {
	root := folder(t, false)
	for _, path := range []string{root, root + "/empty", root + "/nine", root + "/link", root + "/nothing", root + "/large"} {
		var want bytes.Buffer
		if err := gonix.DumpPath(&want, path); err != nil {
			t.Fatal(err)
		}
		if got := dump(t, path); !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s: %d bytes, want the %d of go-nix", filepath.Base(path), len(got), want.Len())
		}
	}
}

func TestCheckTakesWhatDumpWrites(t *testing.T) {
	archive := dump(t, folder(t, true))
	for name, r := range map[string]io.Reader{
		"at once":      bytes.NewReader(archive),
		"byte by byte": iotest.OneByteReader(bytes.NewReader(archive)),
		"err with end": iotest.DataErrReader(bytes.NewReader(archive)),
	} {
		if err := Check(r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An archive that ends anywhere before its end is none.
func TestCheckTruncated(t *testing.T) {
	root := folder(t, true)
	os.Remove(filepath.Join(root, "large"))
	archive := dump(t, root)
	for n := range archive {
		if err := Check(bytes.NewReader(archive[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("the first %d of %d bytes: error %v, want %v", n, len(archive), err, io.ErrUnexpectedEOF)
		}
	}
}

func TestCheckPassesOnErrors(t *testing.T) {
	broken := errors.New("broken")
	archive := dump(t, folder(t, true))
	for _, n := range []int{0, 5, 100, len(archive)} {
		r := io.MultiReader(bytes.NewReader(archive[:n]), iotest.ErrReader(broken))
		if err := Check(r); !errors.Is(err, broken) {
			t.Errorf("after %d bytes: error %v, want %v", n, err, broken)
		}
	}
}

// archive joins strings in the format of an archive.
func archive(texts ...string) string {
	var b bytes.Buffer
	for _, text := range texts {
		wire.WriteString(&b, text)
	}
	return b.String()
}

// entries is a folder of empty folders.
func entries(names ...string) string {
	texts := []string{magic, "(", "type", "directory"}
	for _, name := range names {
		texts = append(texts, "entry", "(", "name", name, "node", "(", "type", "directory", ")", ")")
	}
	return archive(append(texts, ")")...)
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

func TestDumpErrors(t *testing.T) {
	if err := Dump(io.Discard, filepath.Join(t.TempDir(), "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: error %v", err)
	}
	if err := Dump(io.Discard, os.DevNull); err == nil {
		t.Error("a device: no error")
	}
	broken := errors.New("broken")
	if err := Dump(failing{broken}, folder(t, true)); !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func FuzzCheck(f *testing.F) {
	f.Add([]byte(entries("a", "b")))
	f.Add([]byte(archive(magic, "(", "type", "regular", "executable", "", "contents", "x", ")")))
	f.Add([]byte(archive(magic, "(", "type", "symlink", "target", "x", ")")))
	f.Fuzz(func(t *testing.T, text []byte) {
		if Check(bytes.NewReader(text)) != nil {
			return
		}
		// What we take, go-nix takes.
		r, err := gonix.NewReader(bytes.NewReader(text))
		for err == nil {
			_, err = r.Next()
		}
		if err != io.EOF {
			t.Errorf("go-nix: %v", err)
		}
	})
}
