package jobrun

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
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

// TestManyLinks measures more files with several links than there is memory for.
func TestManyLinks(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		file := filepath.Join(root, fmt.Sprint(n))
		write(t, file, strings.Repeat("x", 1<<20))
		if err := errors.Join(os.Link(file, file+"-link"), os.Link(file, filepath.Join(root, "d", fmt.Sprint(n)))); err != nil {
			t.Fatal(err)
		}
	}
	var got []int64
	for _, remembers := range []int{3, 2, 1, 0} {
		m := measurement{remembers: remembers}
		if err := walkTree(t.Context(), root, false, m.add); err != nil || len(m.seen) != remembers {
			t.Errorf("%d files are remembered, want %d; %v", len(m.seen), remembers, err)
		}
		got = append(got, m.bytes)
	}
	for _, bytes := range got {
		if bytes < 3<<20 || bytes > got[0] || bytes < got[0]-100 {
			t.Errorf("the sizes are %d", got)
			break
		}
	}
}

// TestWalkTree walks through folders in each other, with few of them open at once, because the number of open files is
// limited, and each takes memory.
func TestWalkTree(t *testing.T) {
	const depth = 50
	for _, again := range []bool{false, true} {
		root := filepath.Join(t.TempDir(), "root")
		if err := os.Mkdir(root, 0o700); err != nil {
			t.Fatal(err)
		}
		deepTree(t, root, "d", depth, "")
		visited, most, entered := 0, 0, make(map[uint64]bool)
		err := walkTree(t.Context(), root, again, func(folder int, name string, stat *unix.Stat_t) (bool, error) {
			visited++
			most = max(most, openBelow(root))
			enter := stat.Mode&unix.S_IFMT == unix.S_IFDIR && !entered[stat.Ino]
			entered[stat.Ino] = true
			return enter, nil
		})
		want := depth + 2
		if again {
			want += depth + 1
		}
		if err != nil || visited != want || most == 0 || most > 2 {
			t.Errorf("%d visits, want %d; %d folders are open at once; %v", visited, want, most, err)
		}
	}
}

// manyNames makes folders in each other, each with many files of long names.
func manyNames(t *testing.T, root string) {
	t.Helper()
	for range 4 {
		for n := range 600 {
			write(t, filepath.Join(root, fmt.Sprintf("%04d%s", n, strings.Repeat("n", 250))), "")
		}
		root = filepath.Join(root, "d")
		if err := os.Mkdir(root, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

// TestManyNames walks through folders with many names in little memory. Otherwise whoever makes enough of them lets all
// later jobs and the maintenance of a store run out of memory.
func TestManyNames(t *testing.T) {
	root := t.TempDir()
	manyNames(t, root)
	var before, held runtime.MemStats
	files := 0
	runtime.GC()
	runtime.ReadMemStats(&before)
	err := walkTree(t.Context(), root, false, func(_ int, name string, stat *unix.Stat_t) (bool, error) {
		if files++; files%300 == 0 {
			runtime.GC()
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			held.HeapAlloc = max(held.HeapAlloc, now.HeapAlloc)
		}
		return stat.Mode&unix.S_IFMT == unix.S_IFDIR, nil
	})
	const names = 4*600 + 4 + 1
	if grown := int64(held.HeapAlloc) - int64(before.HeapAlloc); err != nil || files != names || grown > 200<<10 {
		t.Errorf("%d of %d files visited; %d bytes held; %v", files, names, grown, err)
	}
	if err := removeTree(root); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// TestTooDeep enters more folders in each other than there is memory for.
func TestTooDeep(t *testing.T) {
	w := walk{ctx: t.Context(), levels: make([]level, maxLevels), visit: func(int, string, *unix.Stat_t) (bool, error) { return true, nil }}
	if below, err := w.enter(unix.AT_FDCWD, t.TempDir()); below >= 0 || err == nil || err.Error() != "too many folders in each other" {
		t.Errorf("descriptor %d; %v", below, err)
	}
}

// TestRemoveNothing removes a folder that never becomes empty: that ends, with an error.
func TestRemoveNothing(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may remove anything")
	}
	root := t.TempDir()
	kept := filepath.Join(root, "kept")
	if err := errors.Join(os.MkdirAll(filepath.Join(kept, "d"), 0o700), os.Chmod(kept, 0o500)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(kept, 0o700) })
	if err := removeTree(root); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("error %v", err)
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
