package jobrun

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// made makes the user, and returns the owner of the home. Only root can change the owner; for other users,
// only that is refused.
func made(t *testing.T, etc, homes string) (u *user, owner uint32) {
	t.Helper()
	u, err := makeUser(etc, homes)
	if os.Geteuid() == 0 {
		if err != nil {
			t.Fatal(err)
		}
		return u, jobUID
	}
	if !errors.Is(err, unix.EPERM) || !strings.HasPrefix(err.Error(), "give "+u.home+" to the job's user: ") {
		t.Fatalf("without root: %v", err)
	}
	return u, uint32(os.Geteuid())
}

// TestMakeUser makes the user in images of several kinds.
func TestMakeUser(t *testing.T) {
	const passwd, group = "root:x:0:0::/root:/bin/sh\n", "root:x:0:\n"
	const user, users = "iglu:x:30100:30100::HOMES/iglu:/bin/sh\n", "iglu:x:30100:\n"
	const builders = "nixbld:x:30000:nixbld1,nixbld2\n"
	for name, test := range map[string]struct{ passwd, group, wantPasswd, wantGroup string }{
		"with build users":     {passwd, group + builders, passwd + user, group + builders + users},
		"the user's id taken":  {passwd + "node:x:30100:30100::/home/node:/bin/sh\n", group + builders + "node:x:30100:\n", passwd + user, group + builders + "node:x:30100:\n"},
		"the user there":       {passwd + user, group + builders + users, passwd + user, group + builders + users},
		"lines that are none":  {passwd + "\nnonsense\n", group + builders, passwd + "nonsense\n" + user, group + builders + users},
		"the name of a system": {passwd + "iglu:x:70:70::/:/bin/false\n", group + builders, passwd + "iglu:x:70:70::/:/bin/false\n" + user, group + builders + users},
	} {
		etc, homes := t.TempDir(), t.TempDir()
		at := func(text string) string { return strings.ReplaceAll(text, "HOMES", homes) }
		write(t, filepath.Join(etc, "passwd"), at(test.passwd))
		write(t, filepath.Join(etc, "group"), at(test.group))
		u, owner := made(t, etc, homes)
		if diff := cmp.Diff(at(test.wantPasswd), read(t, filepath.Join(etc, "passwd"))); diff != "" {
			t.Errorf("%s: passwd (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(at(test.wantGroup), read(t, filepath.Join(etc, "group"))); diff != "" {
			t.Errorf("%s: group (-want +got):\n%s", name, diff)
		}
		info, err := os.Stat(u.home)
		if err != nil || info.Mode() != os.ModeDir|0o700 || info.Sys().(*syscall.Stat_t).Uid != owner {
			t.Errorf("%s: home %v, error %v", name, info, err)
		}
	}
}

// TestMakeUserWithoutAccounts makes all accounts in an image that has none.
func TestMakeUserWithoutAccounts(t *testing.T) {
	etc := filepath.Join(t.TempDir(), "etc")
	made(t, etc, filepath.Join(t.TempDir(), "home"))
	passwd, group := read(t, filepath.Join(etc, "passwd")), read(t, filepath.Join(etc, "group"))
	if n := strings.Count(passwd, "\n"); n != 1+buildUsers || !strings.Contains(passwd, "nixbld32:x:30032:30000:") {
		t.Errorf("%d accounts:\n%s", n, passwd)
	}
	if !strings.Contains(group, "nixbld:x:30000:nixbld1,nixbld2,") {
		t.Errorf("groups:\n%s", group)
	}
}

// TestLinksAreReplaced uses accounts that are links into a store, as in nixos/nix.
func TestLinksAreReplaced(t *testing.T) {
	etc, store := t.TempDir(), t.TempDir()
	for _, name := range []string{"passwd", "group"} {
		write(t, filepath.Join(store, name), "root:x:0:0::/root:/bin/sh\n")
		if err := os.Symlink(filepath.Join(store, name), filepath.Join(etc, name)); err != nil {
			t.Fatal(err)
		}
	}
	made(t, etc, t.TempDir())
	for _, name := range []string{"passwd", "group"} {
		if text := read(t, filepath.Join(store, name)); text != "root:x:0:0::/root:/bin/sh\n" {
			t.Errorf("the store's %s is now:\n%s", name, text)
		}
		if text := read(t, filepath.Join(etc, name)); !strings.HasPrefix(text, "root:") || !strings.Contains(text, jobName+":") {
			t.Errorf("%s is now:\n%s", name, text)
		}
	}
}

// TestFolderInPlaceOfALink checks that the owner of a link's target is not changed.
func TestFolderInPlaceOfALink(t *testing.T) {
	root, home := t.TempDir(), filepath.Join(t.TempDir(), "home")
	if err := os.Symlink(root, home); err != nil {
		t.Fatal(err)
	}
	u := &user{uid: jobUID, gid: jobGID}
	if err := u.makeFolder(home); !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
		t.Errorf("error %v", err)
	}
	if info, err := os.Stat(root); err != nil || info.Sys().(*syscall.Stat_t).Uid == jobUID {
		t.Errorf("it is the user's now: %v, error %v", info, err)
	}
}

func TestCheckOwner(t *testing.T) {
	mine := t.TempDir()
	if err := checkOwner(jobUID, "/", mine, filepath.Join(mine, "missing")); err != nil {
		t.Error(err)
	}
	if err := checkOwner(uint32(os.Geteuid()), filepath.Join(mine, "missing"), mine); err == nil {
		t.Error("what belongs to the user is not noticed")
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestMayRead asks which files the job's user may read. What others may read in a folder that they may not enter, it may
// not.
func TestMayRead(t *testing.T) {
	root := t.TempDir()
	u := &user{uid: uint32(os.Geteuid()) + 1, gid: uint32(os.Getegid()) + 1}
	folder, link := filepath.Join(root, "folder"), filepath.Join(root, "link")
	file := filepath.Join(folder, "netrc")
	if err := errors.Join(os.Chmod(filepath.Dir(root), 0o755), os.Mkdir(folder, 0o755), os.Symlink(file, link)); err != nil {
		t.Fatal(err)
	}
	write(t, file, "")
	for _, test := range []struct {
		folder, file os.FileMode
		want         bool
	}{{0o755, 0o644, true}, {0o711, 0o644, true}, {0o755, 0o640, false}, {0o700, 0o644, false}, {0o744, 0o644, false}} {
		if err := errors.Join(os.Chmod(folder, test.folder), os.Chmod(file, test.file)); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{file, link} {
			if got := u.mayRead(name); got != test.want {
				t.Errorf("%s: with the modes %o and %o: %t", name, test.folder, test.file, got)
			}
		}
		if !rootUser().mayRead(file) {
			t.Errorf("root may not, with the modes %o and %o", test.folder, test.file)
		}
	}
	if u.mayRead(root) || u.mayRead(filepath.Join(root, "missing")) {
		t.Error("it may read what is no file")
	}
}
