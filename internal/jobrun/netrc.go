package jobrun

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"iglu.sh/builder/internal/nixconf"
	"iglu.sh/builder/schemas"
)

// A netrc file has users and passwords for hosts. Nix and its daemon read the file of the setting
// netrc-file; git and curl read .netrc in the user's home. The files of a job are in a folder in memory
// that belongs to root. The job's user can read the files for its programs; the users of builds can read
// none.

// secretsFolder is the folder for secrets. It is in memory, and is removed with the container.
const secretsFolder = "/tmp"

// netrcFiles has the names of a job's netrc files. The zero value is for a job that has none.
type netrcFiles struct {
	ofUser   string // for the Nix of the job's user; empty: it reads the others'
	ofDaemon string // for the daemon; empty: it reads the others'
}

// placeNetrc writes files with which Nix and git use a netrc in addition to that of other settings, which are the
// image's and the operator's. ofCache is an entry for the daemon only.
func placeNetrc(netrc, ofCache, others string, u *user) (n netrcFiles, err error) {
	if netrc == "" && ofCache == "" {
		return n, nil
	}
	folder, err := os.MkdirTemp(secretsFolder, "iglu-")
	if err != nil {
		return n, err
	}
	if err := errors.Join(os.Lchown(folder, 0, int(u.gid)), os.Chmod(folder, 0o750)); err != nil {
		return n, err
	}
	ofOthers := netrcOfOthers(others)
	text, err := readIfThere(ofOthers)
	if err != nil {
		return n, err
	}
	// The first entry for a host is used, and "default" matches every host. So the others' comes last.
	n.ofDaemon = filepath.Join(folder, "of-daemon")
	if err := os.WriteFile(n.ofDaemon, []byte(ofCache+netrc+"\n"+text), 0o600); err != nil || netrc == "" {
		return n, err
	}
	n.ofUser = filepath.Join(folder, "of-nix")
	if err := u.writeNetrc(n.ofUser, netrc, ofOthers); err != nil {
		return n, err
	}
	ofGit, home := filepath.Join(folder, "of-git"), filepath.Join(u.home, ".netrc")
	if err := u.writeNetrc(ofGit, netrc, home); err != nil {
		return n, err
	}
	return n, replaceWithLink(home, ofGit)
}

// writeNetrc writes a file that the user can read. It has a netrc, and then the content of another file if
// the user may read that.
func (u *user) writeNetrc(name, netrc, other string) error {
	text := netrc + "\n"
	if u.mayRead(other) {
		more, err := os.ReadFile(other)
		if err != nil {
			return err
		}
		text += string(more)
	}
	return errors.Join(os.WriteFile(name, []byte(text), 0o640), os.Lchown(name, 0, int(u.gid)))
}

// settings returns the setting with which the Nix of the job's user finds its netrc.
func (n netrcFiles) settings() string { return netrcSetting(n.ofUser) }

// daemonSettings returns the same for Nix's daemon.
func (n netrcFiles) daemonSettings() string { return netrcSetting(n.ofDaemon) }

func netrcSetting(file string) string {
	var lines nixconf.Lines
	if file != "" {
		lines.Set("netrc-file", file)
	}
	return lines.String()
}

// netrcOfOthers returns the name of the netrc file that Nix reads with the image's and the operator's settings.
func netrcOfOthers(settings string) string {
	file, _ := nixconf.Get(settings, "netrc-file")
	return cmp.Or(file, filepath.Join(confOfImage(), "netrc"))
}

// readIfThere returns the content of a file, or "" if it does not exist.
func readIfThere(name string) (string, error) {
	text, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return string(text), err
}

// mayRead reports whether a file exists and its permissions, and those of the folders that it is in, let the user read
// it.
func (u *user) mayRead(name string) bool {
	name, err := filepath.EvalSymlinks(name)
	if err != nil {
		return false
	}
	const read, enter = 0o4, 0o1
	if !u.may(read, name, unix.S_IFREG) {
		return false
	}
	for folder := filepath.Dir(name); u.may(enter, folder, unix.S_IFDIR); folder = filepath.Dir(folder) {
		if folder == filepath.Dir(folder) {
			return true
		}
	}
	return false
}

// may reports whether a file of a kind has a permission, one of those for others, that applies to the user.
func (u *user) may(permission uint32, name string, kind uint32) bool {
	var stat unix.Stat_t
	if unix.Stat(name, &stat) != nil || stat.Mode&unix.S_IFMT != kind {
		return false
	}
	return u.isRoot() || stat.Mode&permission != 0 || stat.Uid == u.uid && stat.Mode&(permission<<6) != 0
}

// replaceWithLink replaces the file of a name, if there is one, by a link.
func replaceWithLink(name, to string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(to, name)
}

// cacheEntry returns the netrc entry with the key of a cache: as for cachix.org, a password without a user.
// It returns "" if the job's own netrc has an entry for that host.
func cacheEntry(cache, key, netrc string) (string, error) {
	u, err := url.Parse(cache)
	if err != nil || schemas.NetrcHas(netrc, u.Hostname()) {
		return "", err
	}
	// Curl supports quoted words only since 7.84. No known key needs quotes.
	if strings.ContainsAny(key, " \t\r\n\"\\#") {
		return "", fmt.Errorf("the API key has a character that a netrc file cannot have")
	}
	return "machine " + u.Hostname() + " password " + key + "\n", nil
}
