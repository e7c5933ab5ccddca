package jobrun

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"iglu.sh/builder/internal/nixstore"
)

// A relay stands between Nix's commands and their daemon, and finds out which store paths the
// commands are about: those that the daemon keeps from the garbage collector for them. The daemon
// writes these into a file for each connection, which it removes when the connection has ended. So
// the relay reads the files when a command has ended its connection, and tells the daemon after
// that. It does not read what is said.
type relay struct {
	listener *net.UnixListener
	socket   string // the daemon's
	store    nixstore.Files

	mu    sync.Mutex
	about map[string]bool // store paths
}

// startRelay listens at a socket, where Nix's commands look for the daemon that listens at another.
func startRelay(listenAt, daemon string, store nixstore.Files) (*relay, error) {
	listener, err := listenLocally(listenAt)
	if err != nil {
		return nil, err
	}
	r := &relay{listener: listener, socket: daemon, store: store, about: make(map[string]bool)}
	go r.serve()
	return r, nil
}

// close takes no more connections. Those that there are last.
func (r *relay) close() { r.listener.Close() }

// acceptPause is how long a relay waits for files to be closed.
const acceptPause = 50 * time.Millisecond

func (r *relay) serve() {
	for {
		client, err := r.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many files are open
			time.Sleep(acceptPause)
			continue
		}
		go r.pass(client)
	}
}

// pass passes a connection on.
func (r *relay) pass(client *net.UnixConn) {
	defer client.Close() // from which its command sees that there is no daemon, if there is none
	daemon, err := dialLike(client, r.socket)
	if err != nil {
		return
	}
	defer daemon.Close()
	go func() {
		io.Copy(client, daemon)
		client.Close()
	}()
	io.Copy(daemon, client)
	r.look()
}

// look keeps what the commands that run now are about.
func (r *relay) look() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.store.TempRoots(func(path string) { r.about[path] = true })
}

// paths returns what the commands up to now were about, in any order.
func (r *relay) paths() []string {
	r.look()
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.about))
}

// dialLike connects to a socket as the user at the other end of a connection: a daemon asks the
// kernel whom it serves.
func dialLike(client *net.UnixConn, socket string) (*net.UnixConn, error) {
	who, err := peer(client)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), socket)
	defer file.Close()
	if err := actAs(who, func() error { return unix.Connect(fd, &unix.SockaddrUnix{Name: socket}) }); err != nil {
		return nil, fmt.Errorf("connect to Nix's daemon: %w", err)
	}
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

func peer(conn *net.UnixConn) (who *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		who, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return who, errors.Join(controlErr, err)
}

// actAs does something as another user. Only the effective ids of one thread change, so that the
// other user cannot send it signals.
func actAs(who *unix.Ucred, do func() error) error {
	runtime.LockOSThread()
	gid, uid := unix.Getegid(), unix.Geteuid()
	err := setThreadID(unix.SYS_SETRESGID, int(who.Gid))
	if err == nil {
		err = setThreadID(unix.SYS_SETRESUID, int(who.Uid))
	}
	if err == nil {
		err = do()
	}
	if restored := errors.Join(setThreadID(unix.SYS_SETRESUID, uid), setThreadID(unix.SYS_SETRESGID, gid)); restored != nil {
		return restored // the thread stays locked, and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}

// setThreadID sets the effective id of this thread alone, by setresuid(2) or setresgid(2).
func setThreadID(call uintptr, id int) error {
	const unchanged = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(call, unchanged, uintptr(id), unchanged); errno != 0 {
		return errno
	}
	return nil
}
