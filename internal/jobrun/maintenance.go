package jobrun

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"iglu.sh/builder/internal/jobenv"
)

// maintenance does in a store what is to be done between jobs, prints its size in bytes, and
// returns 0 if the store is sound. What it runs is the store's own, in which a job of root may
// have put anything: nothing of that is left when the store is measured by us, and its output is
// none of ours.
func maintenance(ctx context.Context, job jobenv.Job, r runner) int {
	if err := clearBuildDir(); err != nil {
		say("%v", err)
	}
	code := maintainStore(job.Maintenance, r)
	r.children.killAll()
	if code != 0 {
		return code
	}
	size, err := diskUsage(ctx, storeRoot)
	if err != nil {
		say("cannot measure the store: %v", err)
		return exitInternal
	}
	fmt.Println(size)
	return 0
}

// maintainStore does a task of maintenance.
func maintainStore(work string, r runner) int {
	task, bytes, _ := strings.Cut(work, " ")
	s := openStore()
	mark, clean := s.readMark()
	if !clean && !s.has(filledMark) {
		say("the creation of the store was interrupted")
		return exitInternal
	}
	switch task {
	case jobenv.MaintenanceCheck:
		if !clean {
			if code := verify(r); code != 0 {
				return code
			}
		}
	case jobenv.MaintenanceCollect:
		if err := s.removeMark(mark); err != nil {
			say("%v", err)
			return exitInternal
		}
		code := collect(bytes, r)
		if !clean { // the next job will see to that
			return code
		}
		if err := s.writeMark(mark); err != nil { // it has ended by itself, whatever came of it
			say("%v", err)
			return exitInternal
		}
		if code != 0 {
			return code
		}
	default:
		say("this program knows no maintenance %q", work)
		return exitInternal
	}
	if err := s.sync(mark); err != nil {
		say("%v", err)
		return exitInternal
	}
	return 0
}

// collect has Nix remove garbage of so many bytes, and returns its exit code. What it does not know
// as garbage is removed first: what is left is measured.
func collect(bytes string, r runner) int {
	if err := errors.Join(os.RemoveAll(jobenv.StoreCache), os.RemoveAll(daemonCache)); err != nil {
		say("cannot remove Nix's caches: %v", err)
	}
	return r.with("NIX_REMOTE=").run([]string{"nix-store", "--gc", "--max-freed", bytes}, "/", os.Stderr, os.Stderr)
}

// blockSize is the unit of a file's number of blocks, in bytes: stat(2).
const blockSize = 512

// diskUsage returns how many bytes of the disk the files below a folder take. One with
// several names counts once.
func diskUsage(ctx context.Context, root string) (bytes int64, err error) {
	type file struct{ device, inode uint64 }
	seen := make(map[file]bool)
	err = filepath.WalkDir(root, func(_ string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var info fs.FileInfo
		if err == nil {
			info, err = entry.Info()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it has gone meanwhile
		}
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		if stat.Nlink > 1 && !entry.IsDir() {
			id := file{stat.Dev, stat.Ino}
			if seen[id] {
				return nil
			}
			seen[id] = true
		}
		bytes += stat.Blocks * blockSize
		return nil
	})
	return bytes, err
}
