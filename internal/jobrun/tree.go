package jobrun

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Jobs and builds can leave folders in each other, of any depth and with any number of names, on a store's volume. Their
// paths can be longer than the kernel accepts, there can be more of them than files may be open, and their names can be
// more than there is memory for. So this file walks with one open folder, without paths, and keeps few names.

// A level is a folder on the way from the root of a walk to the present folder. It is small, because there can be
// maxLevels of them.
type level struct {
	device, inode uint64
	next          int64 // where in the folder the walk goes on
}

// maxLevels limits the memory of a walk. Nothing but an attack has so many folders in each other.
const maxLevels = 1 << 20

// A visit is what a walk does with a file or folder. folder is the descriptor of the open folder with the name in it.
// The walk enters a folder if the visit returns true.
type visit func(folder int, name string, stat *unix.Stat_t) (enter bool, err error)

// walkTree visits a file or folder and what is in the folders that it enters, each before its content. It follows no
// links. It ends with the first error, that of ctx included. What does not exist is no error. No other process may move
// folders meanwhile. If again is true, it visits each folder that it has entered once more after its content.
func walkTree(ctx context.Context, root string, again bool, visit visit) error {
	w := walk{ctx: ctx, again: again, visit: visit}
	for {
		below, err := w.enter(unix.AT_FDCWD, root)
		if err != nil || below < 0 {
			return err
		}
		if err := w.through(below); err != nil || !again {
			return err
		}
	}
}

// A walk is a walk through a tree.
type walk struct {
	ctx     context.Context
	again   bool
	visit   visit
	levels  []level
	batches [32]batch // of the first levels; those below share the last, and read theirs again
}

// through walks through an open folder, and closes it.
func (w *walk) through(folder int) error {
	defer func() { unix.Close(folder) }()
	for {
		next, err := w.on(folder)
		if err == nil && next < 0 {
			w.levels = w.levels[:len(w.levels)-1]
			if len(w.levels) == 0 {
				return nil
			}
			next, err = w.above(folder)
		}
		if err != nil {
			return err
		}
		unix.Close(folder)
		folder = next
	}
}

// on visits what is left in the present folder until it enters a folder there, and returns that. At the end it returns -1.
func (w *walk) on(folder int) (below int, err error) {
	present := &w.levels[len(w.levels)-1]
	b := &w.batches[min(len(w.levels), len(w.batches))-1]
	if len(w.levels) >= len(w.batches) {
		b.left = nil // it can be of another level
	}
	for {
		if len(b.left) == 0 {
			if err := b.read(folder, present.next); err != nil || len(b.left) == 0 {
				return -1, err
			}
		}
		at, all := present.next, b.left
		var name string
		name, present.next, b.left = entry(all)
		if name == "." || name == ".." {
			continue
		}
		below, err = w.enter(folder, name)
		if below >= 0 && w.again {
			w.levels[len(w.levels)-2].next, b.left = at, all
		}
		if below >= 0 || err != nil {
			return below, err
		}
	}
}

// A batch is some of the entries of a folder.
type batch struct {
	buffer []byte
	left   []byte // those that were not visited yet
}

// read reads the entries at a place in an open folder. At the end there are none.
func (b *batch) read(folder int, at int64) error {
	if b.buffer == nil {
		b.buffer = make([]byte, 8<<10)
	}
	if _, err := unix.Seek(folder, at, io.SeekStart); err != nil {
		return err
	}
	n, err := unix.ReadDirent(folder, b.buffer)
	for err == unix.EINTR {
		n, err = unix.ReadDirent(folder, b.buffer)
	}
	b.left = b.buffer[:max(0, n)]
	return err
}

// entry returns the first of the entries of a folder, as the kernel returns them (getdents64(2)): its name, and where in
// the folder the next entry is. left are the others.
func entry(entries []byte) (name string, next int64, left []byte) {
	const offset, length, start = 8, 16, 19
	size := binary.NativeEndian.Uint16(entries[length:])
	text, _, _ := bytes.Cut(entries[start:size], []byte{0})
	return string(text), int64(binary.NativeEndian.Uint64(entries[offset:])), entries[size:]
}

// enter visits a name in a folder. If it is a folder that the walk enters, enter returns it, open; else -1.
func (w *walk) enter(folder int, name string) (below int, err error) {
	if err := w.ctx.Err(); err != nil {
		return -1, err
	}
	var stat unix.Stat_t
	err = unix.Fstatat(folder, name, &stat, unix.AT_SYMLINK_NOFOLLOW)
	enter := false
	if err == nil {
		enter, err = w.visit(folder, name, &stat)
	}
	if err == nil && enter && len(w.levels) == maxLevels {
		err = errors.New("too many folders in each other")
	}
	below = -1
	if err == nil && enter {
		below, err = openFolder(folder, name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return -1, nil
	}
	if below >= 0 {
		w.levels = append(w.levels, level{device: stat.Dev, inode: stat.Ino})
	}
	return below, err
}

// above opens the folder that a folder is in, which is the last of the levels.
func (w *walk) above(folder int) (above int, err error) {
	above, err = openFolder(folder, "..")
	if err != nil {
		return -1, err
	}
	var is unix.Stat_t
	want := w.levels[len(w.levels)-1]
	if err := unix.Fstat(above, &is); err != nil || is.Dev != want.device || is.Ino != want.inode {
		unix.Close(above)
		return -1, errors.Join(errors.New("a folder was moved"), err)
	}
	return above, nil
}

// openFolder opens a folder in another one.
func openFolder(in int, name string) (int, error) {
	fd, err := unix.Openat(in, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	for err == unix.EINTR {
		fd, err = unix.Openat(in, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// removeTree removes a file or folder and everything below it, like os.RemoveAll. It ends with the first error.
func removeTree(root string) error {
	removed := 0
	var full struct { // the last folder that could not be removed before its content
		inode   uint64
		removed int
	}
	return walkTree(context.Background(), root, true, func(folder int, name string, stat *unix.Stat_t) (bool, error) {
		flags := 0
		if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
			flags = unix.AT_REMOVEDIR
		}
		err := unix.Unlinkat(folder, name, flags)
		if err == nil {
			removed++
			return false, nil
		}
		if (err == unix.ENOTEMPTY || err == unix.EEXIST) && (full.inode != stat.Ino || full.removed != removed) {
			full.inode, full.removed = stat.Ino, removed
			return true, nil
		}
		return false, &fs.PathError{Op: "remove", Path: name, Err: err}
	})
}
