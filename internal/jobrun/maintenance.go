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
	if err := errors.Join(clearBuildDir(), openStore().removeLeft()); err != nil {
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

// maxLinked limits the memory of a measurement.
const maxLinked = 1 << 18

// diskUsage returns how many bytes of the disk a file or folder uses, with everything below it. A file with several
// hard links counts once.
func diskUsage(ctx context.Context, root string) (bytes int64, err error) {
	m := measurement{remembers: maxLinked}
	err = walkTree(ctx, root, false, m.add)
	return m.bytes, err
}

// A measurement is of what files and folders use of the disk.
type measurement struct {
	bytes     int64
	seen      map[inode]bool // files with several links that have counted
	remembers int            // so many of them
}

type inode struct{ device, number uint64 }

// add adds a file or folder. If there are more files with several links than a measurement remembers, the others count
// with a part at each of their links.
func (m *measurement) add(_ int, _ string, stat *unix.Stat_t) (enter bool, err error) {
	size := stat.Blocks * blockSize
	isFolder := stat.Mode&unix.S_IFMT == unix.S_IFDIR
	if stat.Nlink > 1 && !isFolder {
		id := inode{stat.Dev, stat.Ino}
		switch {
		case m.seen[id]:
			size = 0
		case len(m.seen) < m.remembers:
			if m.seen == nil {
				m.seen = make(map[inode]bool)
			}
			m.seen[id] = true
		default:
			size /= int64(stat.Nlink)
		}
	}
	m.bytes += size
	return isFolder, nil
}
