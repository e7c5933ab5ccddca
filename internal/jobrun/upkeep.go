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

// upkeep does in a store what is to be done between jobs, prints its size in bytes, and
// returns 0 if the store is sound.
func upkeep(ctx context.Context, job jobenv.Job, r runner) int {
	r = r.with("NIX_REMOTE=") // whatever the image says
	task, bytes, _ := strings.Cut(job.Upkeep, " ")
	nixStore := func(args ...string) int {
		return r.run(append([]string{"nix-store"}, args...), "/", os.Stderr, os.Stderr)
	}
	code := 0
	switch task {
	case jobenv.UpkeepMeasure:
	case jobenv.UpkeepVerify:
		code = nixStore("--verify", "--check-contents")
	case jobenv.UpkeepCollect:
		os.RemoveAll(jobenv.StoreCache) // to Nix it is no garbage; what is left is measured
		code = nixStore("--gc", "--max-freed", bytes)
	default:
		say("this program knows no upkeep %q", job.Upkeep)
		code = exitInternal
	}
	if code != 0 {
		return code
	}
	size, err := diskUsage(ctx, "/nix")
	if err != nil {
		say("cannot measure the store: %v", err)
		return exitInternal
	}
	fmt.Println(size)
	return 0
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
