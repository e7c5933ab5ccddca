package jobrun

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"iglu.sh/builder/internal/jobenv"
)

// rootUser returns the user root.
func rootUser() *user { return &user{name: "root", home: os.Getenv("HOME")} }

// prepare prepares the container for a job, and returns the runner for the job's own programs.
func prepare(job jobenv.Job, root runner) (runner, error) {
	if err := makeTempDir(); err != nil {
		return runner{}, err
	}
	// Not every Nix makes the folder.
	if err := errors.Join(clearBuildDir(), os.MkdirAll(jobenv.BuildDir, 0o755)); err != nil {
		return runner{}, errUnusable{fmt.Sprintf("Nix has no folder to build in: %v", err)}
	}
	r := root
	if readsInPrivate(job) {
		// Later jobs must not read what this job fetches with a key. Nix's cache is searched by names
		// that anyone can write, so for this job it is in the container, and is removed with it.
		r.environ = without(r.environ, cacheHome)
	}
	if job.JobUser == jobenv.UserRoot {
		if hasDaemon(job) {
			return r.with("NIX_REMOTE=daemon"), nil
		}
		return r.with("NIX_REMOTE="), nil
	}
	// The tools of nixos/nix are links in root's home.
	if err := allowThrough(root.user.home); err != nil {
		return runner{}, err
	}
	if err := checkOwner(jobUID, "/", "/etc", "/nix", storeFolder, "/nix/var", "/nix/var/nix", "/nix/var/nix/db"); err != nil {
		return runner{}, err
	}
	u, err := makeUser("/etc", homes)
	if err != nil {
		return runner{}, err
	}
	r.user = u
	r.environ = without(r.environ, "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")
	r = r.with("HOME="+u.home, "USER="+u.name, "LOGNAME="+u.name, "NIX_REMOTE=daemon")
	if job.Store != "" && !readsInPrivate(job) {
		if err := u.makeFolder(jobenv.StoreCache); err != nil {
			return runner{}, errUnusable{fmt.Sprintf("Nix has no folder for its caches: %v", err)}
		}
	}
	return r, errors.Join(allowWriting(os.Stdout), allowWriting(os.Stderr))
}

// readsInPrivate reports whether a job has credentials to read private sources.
func readsInPrivate(job jobenv.Job) bool {
	return job.GitKey != "" || job.AccessTokens != "" || job.Netrc != ""
}

// hasDaemon reports whether a job's Nix uses a daemon. A job that runs as root needs one only for the
// relay, which finds the store paths that the command uses.
func hasDaemon(job jobenv.Job) bool { return job.JobUser != jobenv.UserRoot || job.CacheTarget != "" }

// clearBuildDir removes the files that builds have left, for example if a job was killed. They are in the
// store's volume, and can include a netrc with which Nix has fetched something.
func clearBuildDir() error { return removeTree(jobenv.BuildDir) }

// makeTempDir makes the folder for temporary files. Not every image has one.
func makeTempDir() error {
	if _, err := os.Stat(os.TempDir()); err == nil {
		return nil
	}
	if err := os.MkdirAll(os.TempDir(), 0o755); err != nil {
		return err
	}
	return os.Chmod(os.TempDir(), 0o777|os.ModeSticky)
}

// allowThrough lets every user enter a folder. The files in it keep their own permissions.
func allowThrough(folder string) error {
	info, err := os.Stat(folder)
	if err != nil {
		return nil // it does not exist
	}
	return os.Chmod(folder, info.Mode().Perm()|0o011)
}

// allowWriting lets programs of the job's user open their output by a name such as "/dev/stdout", if it
// is a pipe. They still cannot read from the pipe what others print.
func allowWriting(pipe *os.File) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(pipe.Fd()), &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFIFO {
		return err
	}
	return unix.Fchmod(int(pipe.Fd()), 0o602)
}
