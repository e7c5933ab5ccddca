package jobrun

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// deepTree makes folders in a folder, each in the one before, with a file in the last. Any program can do so, although
// their path becomes longer than a path may be.
func deepTree(t *testing.T, root string, name string, depth int, content string) {
	t.Helper()
	folder, err := os.Open(root)
	for range depth {
		if err != nil {
			t.Fatal(err)
		}
		var fd int
		err = unix.Mkdirat(int(folder.Fd()), name, 0o700)
		if err == nil {
			fd, err = unix.Openat(int(folder.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		}
		folder.Close()
		folder = os.NewFile(uintptr(fd), name)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	fd, err := unix.Openat(int(folder.Fd()), "file", unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "file")
	_, err = file.WriteString(content)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		t.Fatal(err)
	}
}

// longPath makes a tree whose paths are longer than the kernel accepts.
func longPath(t *testing.T, root string) {
	deepTree(t, root, strings.Repeat("d", 200), 50, strings.Repeat("x", 1<<20))
}

// TestDiskUsage measures folders. Files with several names count once, and those far down count, too: otherwise a job
// could hide them there, or make maintenance fail, which removes the store.
func TestDiskUsage(t *testing.T) {
	empty, flat, deep := t.TempDir(), t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(flat, "a"), []byte(strings.Repeat("x", 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Link(filepath.Join(flat, "a"), filepath.Join(flat, "b")), os.Symlink("/", filepath.Join(flat, "c"))); err != nil {
		t.Fatal(err)
	}
	longPath(t, deep)
	base, err := diskUsage(t.Context(), empty)
	if err != nil {
		t.Fatal(err)
	}
	for name, root := range map[string]string{"flat": flat, "deep": deep} {
		if bytes, err := diskUsage(t.Context(), root); err != nil || bytes-base < 1<<20 || bytes-base >= 2<<20 {
			t.Errorf("%s: %d bytes, %d if empty; %v", name, bytes, base, err)
		}
	}
	if bytes, err := diskUsage(t.Context(), filepath.Join(empty, "missing")); bytes != 0 || err != nil {
		t.Errorf("what is not there has %d bytes; %v", bytes, err)
	}
}

// TestWalkTree walks through folders in each other: in the order in which they can be removed, and with few of them
// open at once, because the number of open files is limited, and each takes memory.
func TestWalkTree(t *testing.T) {
	const depth = 50
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	deepTree(t, root, "d", depth, "")
	visited, most := 0, 0
	err := walkTree(t.Context(), root, func(folder int, name string, stat *unix.Stat_t) error {
		visited++
		most = max(most, openBelow(root))
		return nil
	})
	if want := depth + 2; err != nil || visited != want || most == 0 || most > 2 {
		t.Errorf("%d files, want %d; %d folders are open at once; %v", visited, want, most, err)
	}
}

// openBelow returns how many files in a folder, or in those in it, this process has open.
func openBelow(root string) (count int) {
	files, _ := filepath.Glob("/proc/self/fd/*")
	for _, file := range files {
		if name, err := os.Readlink(file); err == nil && strings.HasPrefix(name, root) {
			count++
		}
	}
	return count
}

func TestRemoveTree(t *testing.T) {
	root := t.TempDir()
	elsewhere := t.TempDir()
	kept := filepath.Join(elsewhere, "kept")
	if err := errors.Join(os.WriteFile(kept, nil, 0o600), os.Symlink(elsewhere, filepath.Join(root, "link"))); err != nil {
		t.Fatal(err)
	}
	longPath(t, root)
	for _, name := range []string{filepath.Join(root, "link"), root, root} { // the last is not there any more
		if err := removeTree(name); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Lstat(kept); err != nil {
		t.Errorf("what a link leads to: %v", err)
	}
}
