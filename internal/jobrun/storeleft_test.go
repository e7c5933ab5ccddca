package jobrun

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestIsForeign checks whose entries in a store's folder count as left by builds.
func TestIsForeign(t *testing.T) {
	const group = 30000
	for name, test := range map[string]struct {
		uid, gid, folder, folderGroup uint32
		want                          bool
	}{
		"what Nix has made":                         {0, 0, 0, group, false},
		"what Nix has made, with the group":         {0, group, 0, group, false},
		"of a build user":                           {30001, group, 0, group, true},
		"of an image for one user":                  {1000, 1000, 1000, 1000, false},
		"of such an image, after a job":             {1000, 1000, 0, group, false},
		"of such an image, with the group of users": {1000, 100, 0, group, false},
	} {
		entry, folder := unix.Stat_t{Uid: test.uid, Gid: test.gid}, unix.Stat_t{Uid: test.folder, Gid: test.folderGroup}
		if got := isForeign(&entry, &folder); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestRemoveLeft removes what builders have left in a store, and nothing else.
func TestRemoveLeft(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make files of others")
	}
	s := store{root: t.TempDir()}
	if err := s.removeLeft(); err != nil {
		t.Errorf("without a store: %v", err)
	}
	const long, builder = 250, buildGID + 1
	for _, entry := range []struct {
		name     string
		kind     string // the content of a file, or "/" for a folder, or where a link leads to
		mode     os.FileMode
		uid, gid int
		removed  bool
	}{
		{"store", "/", 0o775, 0, buildGID, false},
		{"store/a", "/", 0o555, 0, 0, false},
		{"store/a/of-a-builder", "", 0o444, builder, buildGID, false}, // only entries of the store's folder are looked at
		{"store/b-Cargo.lock", "of a source", 0o444, 0, 0, false},
		{"store/c-empty.lock", "", 0o444, 0, 0, false},
		{"store/d", "/", 0o755, 1000, 1000, false}, // of an image for one user
		{"store/e.lock", "", 0o600, 0, 0, true},
		{"store/f.lock", "d", 0o600, 0, 0, true}, // a builder had another lock lead here
		{"store/g.lock", "/", 0o755, builder, buildGID, true},
		{"store/g.lock/x", "", 0o644, builder, buildGID, true},
		{"store/h.lock", "/etc/passwd", 0, builder, buildGID, true},
		{"store/i", "something", 0o600, builder, buildGID, true},
		{"var", "/", 0o755, 0, 0, false},
		{"var/nix/gcroots", "/", 0o755, 0, 0, false},
		{"var/nix/gcroots/auto", "d", 0o600, 0, 0, true},
		{"var/nix/gcroots/root", "/nix/store/a", 0, 0, 0, false},
		{"var/nix/db", "/", 0o755, 0, 0, false},
		{"var/nix/db/db.sqlite", "", 0o644, 0, 0, false},
		{"var/nix/db/reserved", "space", 0o600, 0, 0, false},
		{"var/iglu-cache", "/", 0o700, jobUID, jobGID, false},
		{"var/iglu-cache/x", "", 0o600, 0, 0, false}, // the job's user may do there what it wants
	} {
		name := filepath.Join(s.root, entry.name)
		var err error
		switch {
		case entry.kind == "/":
			err = errors.Join(os.MkdirAll(name, 0o755), os.Chmod(name, entry.mode))
		case strings.HasPrefix(entry.kind, "/"):
			err = os.Symlink(entry.kind, name)
		default:
			err = errors.Join(os.WriteFile(name, []byte(entry.kind), 0o600), os.Chmod(name, entry.mode))
		}
		if err := errors.Join(err, os.Lchown(name, entry.uid, entry.gid)); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) != entry.removed {
				t.Errorf("%s: %v", entry.name, err)
			}
		}()
	}
	for n := range 200 {
		name := filepath.Join(s.root, "store", fmt.Sprintf("%03d%s", n, strings.Repeat("n", long)))
		write(t, name, "")
		if err := os.Lchown(name, builder, buildGID); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.removeLeft(); err != nil {
		t.Error(err)
	}
	if names := namesIn(filepath.Join(s.root, "store")); len(names) != 4 {
		t.Errorf("the store has %q", names)
	}
}
