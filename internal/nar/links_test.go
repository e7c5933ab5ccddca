package nar

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const secret = "what is not in the folder"

// swapped makes a folder with the files a and b, and a writer that puts a link to a secret in
// b's place while a is being written.
func swapped(t *testing.T, swap func(b, secretFile string) error) (folder string, w *hooked) {
	t.Helper()
	root := t.TempDir()
	folder, secretFile := filepath.Join(root, "path"), filepath.Join(root, "secret")
	err := errors.Join(os.Mkdir(folder, 0o755), os.WriteFile(secretFile, []byte(secret), 0o644),
		os.WriteFile(filepath.Join(folder, "a"), make([]byte, 4*writeBuffer), 0o644),
		os.WriteFile(filepath.Join(folder, "b"), []byte("b"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	return folder, &hooked{first: func() {
		if err := swap(filepath.Join(folder, "b"), secretFile); err != nil {
			t.Error(err)
		}
	}}
}

// hooked is a buffer that calls first before it takes the first bytes.
type hooked struct {
	bytes.Buffer
	first func()
}

func (h *hooked) Write(b []byte) (int, error) {
	if h.first != nil {
		h.first()
		h.first = nil
	}
	return h.Buffer.Write(b)
}

// TestDumpFollowsNoLink exchanges what is to be read while the archive is being written.
func TestDumpFollowsNoLink(t *testing.T) {
	for name, swap := range map[string]func(b, secretFile string) error{
		"a file for a link": func(b, secretFile string) error {
			return errors.Join(os.Remove(b), os.Symlink(secretFile, b))
		},
		"a file for a folder that is a link": func(b, secretFile string) error {
			return errors.Join(os.Remove(b), os.Symlink(filepath.Dir(secretFile), b))
		},
	} {
		folder, w := swapped(t, swap)
		if err := Dump(w, folder); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if text := w.String(); strings.Contains(text, secret) || !strings.Contains(text, "symlink") {
			t.Errorf("%s: the link was followed", name)
		}
	}
}

// dumpByName is the weak way: it looks at each file, and then opens it by its name.
func dumpByName(w *hooked, folder string) error {
	return filepath.WalkDir(folder, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(name)
		w.Write(text)
		return err
	})
}

// TestWeakDump has the exchange succeed where a file is opened by its name.
func TestWeakDump(t *testing.T) {
	folder, w := swapped(t, func(b, secretFile string) error { return errors.Join(os.Remove(b), os.Symlink(secretFile, b)) })
	if err := dumpByName(w, folder); err != nil || !strings.Contains(w.String(), secret) {
		t.Errorf("the attack does not work at all: %v", err)
	}
}

// TestDumpDoesNotWait has a pipe, which nobody writes to, in the place of a file.
func TestDumpDoesNotWait(t *testing.T) {
	folder, w := swapped(t, func(b, _ string) error { return errors.Join(os.Remove(b), unix.Mkfifo(b, 0o644)) })
	if err := Dump(w, folder); err == nil || !strings.Contains(err.Error(), "neither a file nor a folder nor a link") {
		t.Errorf("error %v", err)
	}
}

// TestOpenBelow opens what is mounted below a folder.
func TestOpenBelow(t *testing.T) {
	root, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	file, err := openBelow(root, "proc", unix.O_RDONLY)
	if !errors.Is(err, unix.EXDEV) {
		t.Errorf("error %v, want %v", err, unix.EXDEV)
		file.Close()
	}
}
