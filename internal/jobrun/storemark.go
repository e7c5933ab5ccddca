package jobrun

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"iglu.sh/builder/internal/jobenv"
)

// A store that outlives jobs carries two marks. One says that it was filled from an image, all of it;
// the first job there makes it. The other is there while nobody writes into the store, and says that
// the last who did came to an end. Nix itself does not have the kernel write a store's files to the disk, so
// that after a loss of power the mark alone could be there. So it says in which life of the
// machine it was made, and counts in another only if all was on the disk before. That takes
// long at times, and is done while no job is there (maintenance.go).

// storeRoot is where a store that outlives jobs is mounted.
const storeRoot = "/nix"

const (
	filledMark = ".iglu-filled"                    // in storeRoot
	cleanMark  = ".iglu-clean"                     // likewise
	database   = "var/nix/db/db.sqlite"            // of Nix; likewise
	bootID     = "/proc/sys/kernel/random/boot_id" // another each time the machine starts
	// maxMark is more than a mark is long, in bytes.
	maxMark = 4 << 10
)

// A storeMark is what stands in a store's mark.
type storeMark struct {
	Boot     string `json:"boot"`               // the life of the machine in which it was made
	Synced   bool   `json:"synced,omitempty"`   // all was on the disk before
	Database bool   `json:"database,omitempty"` // Nix has, or has had, a database
}

// A store is a folder like storeRoot.
type store struct {
	root string
	boot string // the present life of the machine; empty if that is not known
}

func openStore() store {
	boot, _ := os.ReadFile(bootID) // without it, no mark counts that is not synced
	return store{storeRoot, strings.TrimSpace(string(boot))}
}

// readMark returns the store's mark, and whether it says that the store is clean.
func (s store) readMark() (mark storeMark, clean bool) {
	fd, err := unix.Open(filepath.Join(s.root, cleanMark), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return storeMark{}, false
	}
	file := os.NewFile(uintptr(fd), cleanMark)
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return storeMark{}, false
	}
	text, err := io.ReadAll(io.LimitReader(file, maxMark))
	if err != nil || json.Unmarshal(text, &mark) != nil {
		return storeMark{}, false
	}
	return mark, mark.Synced || mark.Boot != "" && mark.Boot == s.boot
}

// removeMark takes the mark away, before something is written into the store.
func (s store) removeMark(mark storeMark) error {
	if err := os.RemoveAll(filepath.Join(s.root, cleanMark)); err != nil {
		return err
	}
	if !mark.Synced { // in another life of the machine it does not count anyway
		return nil
	}
	return syncFolder(s.root)
}

// writeMark says that nobody writes into the store any more. It had the mark was before.
func (s store) writeMark(was storeMark) error {
	return s.write(storeMark{Boot: s.boot, Database: was.Database})
}

// sync has all of the store be on the disk, and says so in the mark that was there or was taken
// away.
func (s store) sync(was storeMark) error {
	folder, err := os.Open(s.root)
	if err != nil {
		return err
	}
	defer folder.Close()
	if err := unix.Syncfs(int(folder.Fd())); err != nil {
		return fmt.Errorf("sync the store: %w", err)
	}
	return errors.Join(s.write(storeMark{Boot: s.boot, Synced: true, Database: was.Database}), syncFolder(s.root))
}

func (s store) write(mark storeMark) error {
	mark.Database = mark.Database || s.has(database)
	text, err := json.Marshal(mark)
	if err != nil {
		panic("jobrun: a mark always encodes: " + err.Error())
	}
	return replaceFile(filepath.Join(s.root, cleanMark), text, 0o644)
}

func (s store) has(name string) bool {
	info, err := os.Lstat(filepath.Join(s.root, name))
	return err == nil && info.Mode().IsRegular()
}

func syncFolder(name string) error {
	folder, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// errUnusable is why a job cannot begin with the store that it has.
type errUnusable struct{ why string }

func (e errUnusable) Error() string { return e.why }

// takeStore makes a store that outlives the job this job's, and returns the mark that it had. The
// error is an errUnusable if the job can begin with another store. Whether earlier jobs have had the
// store, it says itself: between the builder's look at it and now, another builder's job may have.
func takeStore(job *jobenv.Job, r runner) (storeMark, error) {
	if job.Store == "" {
		return storeMark{}, nil
	}
	s := openStore()
	mark, clean := s.readMark()
	switch filled := clean || s.has(filledMark); {
	case filled:
		job.Store = jobenv.StoreUsed
	case job.Store == jobenv.StoreUsed:
		return mark, errUnusable{"it was not filled to the end"}
	default:
		return mark, s.writeFilled()
	}
	if err := s.check(mark); err != nil {
		return mark, err
	}
	if err := checkTools(*job, r); err != nil {
		return mark, err
	}
	if !clean {
		say("the last job in this store did not end by itself, or the machine did not: verifying the store")
		if code := verify(r); code != 0 {
			return mark, errUnusable{"it is damaged"}
		}
	}
	return mark, errors.Join(s.writeFilled(), s.removeMark(mark))
}

// writeFilled says that the store was filled to the end.
func (s store) writeFilled() error {
	if s.has(filledMark) {
		return nil
	}
	return replaceFile(filepath.Join(s.root, filledMark), nil, 0o644)
}

// check returns an error if what every job needs is gone from the store.
func (s store) check(mark storeMark) error {
	for _, program := range []string{"git", "nix"} {
		if _, err := exec.LookPath(program); err != nil {
			return errUnusable{"it has no " + program + " any more"}
		}
	}
	if mark.Database && !s.has(database) {
		return errUnusable{"Nix's database is gone from it"}
	}
	return nil
}

// checkTools returns an error if a program that every job needs does not run any more. Only a
// job that was root can have done that.
func checkTools(job jobenv.Job, r runner) error {
	if job.JobUser != jobenv.UserRoot {
		return nil
	}
	for _, program := range []string{"git", "nix"} {
		if r.run([]string{program, "--version"}, "/", nil, nil) != 0 {
			return errUnusable{"its " + program + " does not run any more"}
		}
	}
	return nil
}

// verify has Nix compare all files of the store with what it knows of them, and returns its exit
// code.
func verify(r runner) int {
	return r.with("NIX_REMOTE=").run([]string{"nix-store", "--verify", "--check-contents"}, "/", os.Stderr, os.Stderr)
}
