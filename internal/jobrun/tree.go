package jobrun

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Jobs and builds can leave folders in each other, of any depth, on a store's volume. Their paths can be longer than
// the kernel accepts, and there can be more of them than files may be open. So this file walks with one open folder and
// without paths.

// A level is a folder on the way from the root of a walk to the present folder.
type level struct {
	name string      // in the folder above
	stat unix.Stat_t // of the folder
	left []string    // the names in it that were not visited yet
}

// walkTree calls visit for a file or folder and for everything below it: for a folder after its content. It follows no
// links. folder is the descriptor of the open folder with the visited name in it. It ends with the first error, that of
// ctx included. What does not exist is no error. No other process may move folders meanwhile.
func walkTree(ctx context.Context, root string, visit func(folder int, name string, stat *unix.Stat_t) error) error {
	var folder *os.File // the last of levels; nil for the first, which is not a folder
	defer func() { folder.Close() }()
	levels := []level{{left: []string{root}}}
	for {
		top := &levels[len(levels)-1]
		if len(top.left) == 0 {
			if len(levels) == 1 {
				return nil
			}
			above, err := openAbove(folder, levels[:len(levels)-1])
			if err != nil {
				return err
			}
			folder.Close()
			folder = above
			if err := visit(descriptor(folder), top.name, &top.stat); err != nil {
				return err
			}
			levels = levels[:len(levels)-1]
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		name := top.left[len(top.left)-1]
		top.left = top.left[:len(top.left)-1]
		l := level{name: name}
		err := unix.Fstatat(descriptor(folder), name, &l.stat, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && l.stat.Mode&unix.S_IFMT != unix.S_IFDIR {
			err = visit(descriptor(folder), name, &l.stat)
		} else if err == nil {
			var below *os.File
			if below, err = openFolder(folder, name); err == nil {
				folder.Close()
				folder = below
				l.left, err = below.Readdirnames(-1)
				levels = append(levels, l)
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
}

// descriptor returns the descriptor of a folder, or the one for the present folder if it is nil.
func descriptor(folder *os.File) int {
	if folder == nil {
		return unix.AT_FDCWD
	}
	return int(folder.Fd())
}

// openFolder opens a folder in another one, which may be nil.
func openFolder(in *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(descriptor(in), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	for err == unix.EINTR {
		fd, err = unix.Openat(descriptor(in), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openAbove opens the folder that a folder is in, which is the last of levels. It returns nil for the first of them.
func openAbove(folder *os.File, levels []level) (*os.File, error) {
	if len(levels) == 1 {
		return nil, nil
	}
	above, err := openFolder(folder, "..")
	if err != nil {
		return nil, err
	}
	var is unix.Stat_t
	want := levels[len(levels)-1]
	if err := unix.Fstat(descriptor(above), &is); err != nil || is.Dev != want.stat.Dev || is.Ino != want.stat.Ino {
		above.Close()
		return nil, errors.Join(fmt.Errorf("%s was moved", want.name), err)
	}
	return above, nil
}

// removeTree removes a file or folder and everything below it, like os.RemoveAll. It goes on after an error, and
// returns the first.
func removeTree(root string) (failed error) {
	err := walkTree(context.Background(), root, func(folder int, name string, stat *unix.Stat_t) error {
		flags := 0
		if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
			flags = unix.AT_REMOVEDIR
		}
		if err := unix.Unlinkat(folder, name, flags); err != nil && err != unix.ENOENT && failed == nil {
			failed = &fs.PathError{Op: "remove", Path: name, Err: err}
		}
		return nil
	})
	if failed == nil {
		failed = err
	}
	return failed
}
