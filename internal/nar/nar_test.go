package nar

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	gonix "github.com/nix-community/go-nix/pkg/nar"
	"golang.org/x/sys/unix"

	"iglu.sh/builder/test/kit/narcheck"
)

// folder makes a folder of everything that an archive can hold. dots says whether
// names that begin with two dots, which go-nix cannot write, are among it.
func folder(t *testing.T, dots bool) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	files := map[string]int{"empty": 0, "one": 1, "seven": 7, "eight": 8, "nine": 9, "large": 3*writeBuffer + 5,
		"a": 1, "a-b": 1, "a.b": 1, "A": 1, "with space": 1, "öä枝": 1, "new\nline": 1, "\xff": 1, "~": 1, ".hidden": 1,
		"folder/inside": 1, "folder-2": 1, "folder.d/x": 1, strings.Repeat("n", 255): 1}
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

// The strict reader takes what is written, however it comes.
func TestDumpIsTaken(t *testing.T) {
	archive := dump(t, folder(t, true))
	for name, r := range map[string]io.Reader{
		"at once":      bytes.NewReader(archive),
		"byte by byte": iotest.OneByteReader(bytes.NewReader(archive)),
		"err with end": iotest.DataErrReader(bytes.NewReader(archive)),
	} {
		if err := narcheck.Check(r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
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

// A call that was interrupted is repeated. The result of any other is returned.
func TestOpenAgain(t *testing.T) {
	for _, want := range []error{nil, unix.ENOENT, unix.ELOOP, unix.EXDEV} {
		results := []error{unix.EINTR, unix.EAGAIN, unix.EAGAIN, unix.EINTR, want}
		calls := 0
		fd, err := openat(func() (int, error) { calls++; return calls, results[calls-1] })
		if calls != len(results) || fd != calls || err != want {
			t.Errorf("%v: %d calls return %d, %v", want, calls, fd, err)
		}
	}
}

// If a link's target cannot be read, Dump fails, and writes no link without a target.
func TestUnreadableLink(t *testing.T) {
	noLink, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer noLink.Close()
	var archive bytes.Buffer
	d := &dumper{w: bufio.NewWriter(&archive)}
	d.symlink(noLink)
	if pathErr, ok := errors.AsType[*os.PathError](d.err); !ok || pathErr.Op != "readlink" || d.w.Buffered() > 0 {
		t.Errorf("error %v, %d bytes", d.err, d.w.Buffered())
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
