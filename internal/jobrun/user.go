package jobrun

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A user is the user that runs the job's own programs: git, and the command.
type user struct {
	uid, gid uint32
	name     string
	home     string
}

// The unprivileged user of jobs, and Nix's build users as in nixos/nix. Some limits for a user, such as the
// number of inotify instances, apply to the whole machine. So the user has an id that machines normally do
// not use, next to the ids of the build users.
const (
	jobUID, jobGID = 30100, 30100
	jobName        = "iglu"
	homes          = "/home"

	buildGroup = "nixbld"
	buildGID   = 30000
	buildUsers = 32
)

// makeUser makes the unprivileged user with a home, and Nix's build users if the image has none. etc is the
// folder of passwd and group, and homes the folder of the homes.
func makeUser(etc, homes string) (*user, error) {
	passwd, err := readAccounts(filepath.Join(etc, "passwd"))
	if err != nil {
		return nil, err
	}
	group, err := readAccounts(filepath.Join(etc, "group"))
	if err != nil {
		return nil, err
	}
	u := &user{uid: jobUID, gid: jobGID, name: jobName, home: filepath.Join(homes, jobName)}
	passwd.removeID(jobUID)
	passwd.add(u.name, "x", itoa(jobUID), itoa(jobGID), "", u.home, "/bin/sh")
	if !group.hasID(jobGID) {
		group.add(u.name, "x", itoa(jobGID), "")
	}
	if members := group.find(buildGroup); members == nil || members[len(members)-1] == "" {
		addBuildUsers(passwd, group)
	}
	if err := errors.Join(passwd.write(), group.write()); err != nil {
		return nil, err
	}
	return u, errors.Join(os.MkdirAll(homes, 0o755), u.makeFolder(u.home))
}

func itoa(n int) string { return strconv.Itoa(n) }

func addBuildUsers(passwd, group *accounts) {
	var members []string
	gid := itoa(buildGID)
	if existing := group.find(buildGroup); existing != nil {
		gid = existing[2]
	}
	for n := 1; n <= buildUsers; n++ {
		name := buildGroup + itoa(n)
		members = append(members, name)
		if passwd.find(name) == nil {
			passwd.add(name, "x", itoa(buildGID+n), gid, "Nix build user "+itoa(n), "/var/empty", "/sbin/nologin")
		}
	}
	group.remove(buildGroup)
	group.add(buildGroup, "x", gid, strings.Join(members, ","))
}

// makeFolder makes a folder that only the user may enter, or changes an existing folder so.
func (u *user) makeFolder(name string) error {
	if err := os.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// By a descriptor, so that a link in place of the folder is not followed.
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Fchown(fd, int(u.uid), int(u.gid)), unix.Fchmod(fd, 0o700)); err != nil {
		return fmt.Errorf("give %s to the job's user: %w", name, err)
	}
	return nil
}

// own makes the user the owner of a file that root has made.
func (u *user) own(name string) error {
	if u.isRoot() {
		return nil
	}
	return os.Lchown(name, int(u.uid), int(u.gid))
}

func (u *user) isRoot() bool { return u.uid == 0 }

// accounts are the lines of passwd(5) or group(5).
type accounts struct {
	file    string
	was     []byte
	entries [][]string
}

func readAccounts(file string) (*accounts, error) {
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	a := &accounts{file: file, was: text}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimRight(line, "\n"); line != "" {
			a.entries = append(a.entries, strings.Split(line, ":"))
		}
	}
	return a, nil
}

func (a *accounts) add(fields ...string) { a.entries = append(a.entries, fields) }

func (a *accounts) find(name string) []string {
	i := slices.IndexFunc(a.entries, func(e []string) bool { return e[0] == name && len(e) > 2 })
	if i < 0 {
		return nil
	}
	return a.entries[i]
}

func (a *accounts) remove(name string) {
	a.entries = slices.DeleteFunc(a.entries, func(e []string) bool { return e[0] == name })
}

func hasID(entry []string, id int) bool { return len(entry) > 2 && entry[2] == itoa(id) }

func (a *accounts) hasID(id int) bool {
	return slices.ContainsFunc(a.entries, func(e []string) bool { return hasID(e, id) })
}

func (a *accounts) removeID(id int) {
	a.entries = slices.DeleteFunc(a.entries, func(e []string) bool { return hasID(e, id) })
}

// write replaces the file. If that is a link, as in nixos/nix, the link is replaced and its target is not
// changed.
func (a *accounts) write() error {
	var text bytes.Buffer
	for _, entry := range a.entries {
		text.WriteString(strings.Join(entry, ":") + "\n")
	}
	if bytes.Equal(text.Bytes(), a.was) {
		return nil
	}
	return replaceFile(a.file, text.Bytes())
}

// replaceFile writes a file that everyone can read, atomically, and replaces a file or link of the same name.
func replaceFile(name string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	temporary, err := os.CreateTemp(filepath.Dir(name), ".iglu-")
	if err != nil {
		return err
	}
	_, err = temporary.Write(text)
	err = errors.Join(err, temporary.Chmod(0o644), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), name)
	}
	if err != nil {
		os.Remove(temporary.Name())
	}
	return err
}

// checkOwner returns an error if the user of jobs owns one of these files.
func checkOwner(uid uint32, names ...string) error {
	for _, name := range names {
		var stat unix.Stat_t
		if err := unix.Stat(name, &stat); err == nil && stat.Uid == uid {
			return fmt.Errorf("%s belongs to the user %d, whom jobs run as; use an image where it belongs to root, or set IGLU_JOB_USER=root", name, uid)
		}
	}
	return nil
}
