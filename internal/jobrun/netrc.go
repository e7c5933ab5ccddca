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

// A netrc says which user and password go to which host. Nix reads the file that its setting
// netrc-file names, and so does its daemon; git, and curl, read .netrc in the home of their user.
// Those of a job lie in a folder in memory that belongs to root: the job's user can read what is
// for its programs, the users of builds nothing.

// secretsFolder is where folders for secrets are made: in memory, and gone with the container.
const secretsFolder = "/tmp"

// A netrcFiles are the files of a job's netrc. The zero value is of a job that has none.
type netrcFiles struct {
	ofUser   string // for the Nix of the job's user; empty: the image's
	ofDaemon string // likewise for the daemon
}

// placeNetrc has Nix and git find a netrc beside what the image has. ofCache is an entry that only
// the daemon is to know.
func placeNetrc(netrc, ofCache string, u *user) (n netrcFiles, err error) {
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
	ofImage := netrcOfImage()
	text, err := readIfThere(ofImage)
	if err != nil {
		return n, err
	}
	// The first entry for a host counts, and "default" stands for all.
	n.ofDaemon = filepath.Join(folder, "of-daemon")
	if err := os.WriteFile(n.ofDaemon, []byte(ofCache+netrc+"\n"+text), 0o600); err != nil || netrc == "" {
		return n, err
	}
	n.ofUser = filepath.Join(folder, "of-nix")
	if err := u.writeNetrc(n.ofUser, netrc, ofImage); err != nil {
		return n, err
	}
	ofGit, home := filepath.Join(folder, "of-git"), filepath.Join(u.home, ".netrc")
	if err := u.writeNetrc(ofGit, netrc, home); err != nil {
		return n, err
	}
	return n, replaceWithLink(home, ofGit)
}

// writeNetrc writes a file that the user can read: a netrc, and what another file has that it can
// read as well.
func (u *user) writeNetrc(name, netrc, beside string) error {
	text := netrc + "\n"
	if u.mayRead(beside) {
		more, err := os.ReadFile(beside)
		if err != nil {
			return err
		}
		text += string(more)
	}
	return errors.Join(os.WriteFile(name, []byte(text), 0o640), os.Lchown(name, 0, int(u.gid)))
}

// settings returns what has the Nix of the job's user find its netrc.
func (n netrcFiles) settings() string { return netrcSetting(n.ofUser) }

// daemonSettings returns likewise what is for Nix's daemon alone.
func (n netrcFiles) daemonSettings() string { return netrcSetting(n.ofDaemon) }

func netrcSetting(file string) string {
	var lines nixconf.Lines
	if file != "" {
		lines.Set("netrc-file", file)
	}
	return lines.String()
}

// netrcOfImage returns the file that Nix reads in the job image.
func netrcOfImage() string {
	file, _ := nixconf.Get(readConfOfImage(), "netrc-file")
	return cmp.Or(file, filepath.Join(confOfImage(), "netrc"))
}

// readIfThere returns what a file holds, and nothing of one that is not there.
func readIfThere(name string) (string, error) {
	text, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return string(text), err
}

// mayRead reports whether there is a file that the user may read, as far as its permissions say.
func (u *user) mayRead(name string) bool {
	var stat unix.Stat_t
	if unix.Stat(name, &stat) != nil || stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	return u.isRoot() || stat.Mode&0o004 != 0 || stat.Uid == u.uid && stat.Mode&0o400 != 0
}

// replaceWithLink puts a link in the place of whatever has a name.
func replaceWithLink(name, to string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(to, name)
}

// cacheEntry returns the entry of a netrc that shows the key of a cache to it, in the way of
// cachix.org: as a password without a user. There is none if the job's own netrc has one.
func cacheEntry(cache, key, netrc string) (string, error) {
	u, err := url.Parse(cache)
	if err != nil || schemas.NetrcHas(netrc, u.Hostname()) {
		return "", err
	}
	// Curl reads words in quotes since 7.84 only; such a key has never been seen.
	if strings.ContainsAny(key, " \t\r\n\"\\#") {
		return "", fmt.Errorf("the API key holds a character that a netrc cannot hold")
	}
	return "machine " + u.Hostname() + " password " + key + "\n", nil
}
