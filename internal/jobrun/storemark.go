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

// A store that is kept after its job has two marks, which are files.
//
// The first mark says that the store was created completely from an image. The first job makes it.
//
// The second mark says that the store is clean: nothing writes into it, and the last job or task that
// did has ended properly. Nix does not sync the files of a store to the disk, so after a power failure
// the mark could be on the disk without the files. So the mark has the boot id of the machine. After a
// reboot it is valid only if the store was synced before the mark was made. Syncing can take long, so
// it is done between jobs (maintenance.go).

// storeRoot is where a store that is kept after the job is mounted.
const storeRoot = "/nix"

const (
	filledMark = ".iglu-filled"                    // in storeRoot
	cleanMark  = ".iglu-clean"                     // in storeRoot
	database   = "var/nix/db/db.sqlite"            // Nix's database, in storeRoot
	bootID     = "/proc/sys/kernel/random/boot_id" // changes each time the machine starts
	// maxMark is more than the length of a mark, in bytes.
	maxMark = 4 << 10
	// databaseBase and databasePath are how many bytes Nix's database may have, and how many more for each path of
	// the store. The write-ahead log of a killed job has up to 160 MB (wal_autocheckpoint in local-store.cc of Nix's
	// sources). A path needs some 300 bytes, and some 100 for each reference and signature. A job's user can fill the
	// database with junk: signatures, which Nix's daemon does not verify.
	databaseBase = 256 << 20
	databasePath = 8 << 10
)

// A storeMark is the content of the mark of a clean store.
type storeMark struct {
	Boot     string `json:"boot"`               // the boot id of the machine when the mark was made
	Synced   bool   `json:"synced,omitempty"`   // the store was synced before
	Database bool   `json:"database,omitempty"` // Nix has, or has had, a database
}

// A store is a folder like storeRoot.
type store struct {
	root string
	boot string // the present boot id; empty if that is not known
}

func openStore() store {
	boot, _ := os.ReadFile(bootID) // without it, only a synced mark is valid
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

// removeMark removes the mark of a clean store, before something is written into the store.
func (s store) removeMark(mark storeMark) error {
	if err := os.RemoveAll(filepath.Join(s.root, cleanMark)); err != nil {
		return err
	}
	if !mark.Synced { // after a reboot the mark is not valid anyway
		return nil
	}
	return syncFolder(s.root)
}

// writeMark marks the store as clean. was is its earlier mark.
func (s store) writeMark(was storeMark) error {
	return s.write(storeMark{Boot: s.boot, Database: was.Database})
}

// sync syncs the store to the disk, and then writes a mark that says so. was is its earlier mark.
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
	return replaceFile(filepath.Join(s.root, cleanMark), text)
}

func (s store) has(name string) bool {
	info, err := os.Lstat(filepath.Join(s.root, name))
	return err == nil && info.Mode().IsRegular()
}

// size returns a file's size in bytes, or 0 if there is none.
func (s store) size(name string) int64 {
	info, err := os.Lstat(filepath.Join(s.root, name))
	if err != nil {
		return 0
	}
	return info.Size()
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

// takeStore checks a store that is kept after the job, removes its mark, and returns the mark. The error
// is an errUnusable if the job can begin with another store. It corrects job.Store by the store's own
// marks: since the builder has looked, the job of another builder may have used the store.
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
		return mark, errUnusable{"its creation was interrupted"}
	default:
		return mark, s.writeFilled()
	}
	if err := s.removeLeft(); err != nil {
		return mark, errUnusable{err.Error()}
	}
	if err := s.check(mark); err != nil {
		return mark, err
	}
	if err := checkTools(*job, r); err != nil {
		return mark, err
	}
	if !clean {
		say("the last job in this store was interrupted, or the machine was: verifying the store")
		if code := verify(r); code != 0 {
			return mark, errUnusable{"it is damaged"}
		}
	}
	return mark, errors.Join(s.writeFilled(), s.removeMark(mark))
}

// writeFilled marks the store as created completely.
func (s store) writeFilled() error {
	if s.has(filledMark) {
		return nil
	}
	return replaceFile(filepath.Join(s.root, filledMark), nil)
}

// check returns an error if the store lacks something that every job needs, or if its database would make Nix's
// daemon slow, or have it run out of memory.
func (s store) check(mark storeMark) error {
	for _, program := range []string{"git", "nix"} {
		if _, err := exec.LookPath(program); err != nil {
			return errUnusable{"it has no " + program + " any more"}
		}
	}
	if mark.Database && !s.has(database) {
		return errUnusable{"it has no database of Nix any more"}
	}
	size := s.size(database) + s.size(database+"-wal") // the write-ahead log becomes part of it
	if size <= databaseBase {
		return nil
	}
	if paths := len(namesIn(filepath.Join(s.root, "store"))); size > databaseBase+int64(paths)*databasePath {
		return errUnusable{fmt.Sprintf("its database of Nix has %d MB for %d paths, so jobs have filled it with junk", size/1e6, paths)}
	}
	return nil
}

// checkTools returns an error if a program that every job needs does not run any more. Only a job that
// runs as root can have damaged it.
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

// verify makes Nix compare all files of the store with the hashes in its database, and returns its exit
// code.
func verify(r runner) int {
	return r.with("NIX_REMOTE=").run([]string{"nix-store", "--verify", "--check-contents"}, "/", os.Stderr, os.Stderr)
}
