package jobrun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"iglu.sh/builder/internal/jobenv"
)

// maintenance runs a task in a store between jobs, prints the store's size in bytes, and returns 0 if the
// store is clean. The task runs programs of the store, which a job that ran as root may have replaced. So
// their processes are killed before the store is measured, and their output is not mixed with the size.
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

// maintainStore runs a task of maintenance, and returns an exit code.
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
		if !clean { // the next job will verify the store
			return code
		}
		if err := s.writeMark(mark); err != nil { // the task has ended properly, even if it failed
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

// collect makes Nix remove garbage of so many bytes, and returns its exit code. It also removes Nix's
// caches, which are not garbage to Nix.
func collect(bytes string, r runner) int {
	if err := errors.Join(removeTree(jobenv.StoreCache), removeTree(daemonCache)); err != nil {
		say("cannot remove Nix's caches: %v", err)
	}
	return r.with("NIX_REMOTE=").run([]string{"nix-store", "--gc", "--max-freed", bytes}, "/", os.Stderr, os.Stderr)
}

// blockSize is the unit of a file's number of blocks, in bytes: stat(2).
const blockSize = 512

// diskUsage returns how many bytes of the disk a file or folder uses, with everything below it. A file with several
// hard links counts once.
func diskUsage(ctx context.Context, root string) (bytes int64, err error) {
	type file struct{ device, inode uint64 }
	seen := make(map[file]bool)
	err = walkTree(ctx, root, func(_ int, _ string, stat *unix.Stat_t) error {
		if stat.Nlink > 1 && stat.Mode&unix.S_IFMT != unix.S_IFDIR {
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
