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

// A relay is a proxy between Nix's commands and their daemon. It finds out which store paths the commands
// use: those that the daemon protects from the garbage collector for them. The daemon has a file with
// these paths for each connection, and removes it when the connection has ended. So when a command closes
// its connection, the relay reads the files before it closes the connection to the daemon. It does not
// read the data of the connections.
type relay struct {
	listener *net.UnixListener
	socket   string // the daemon's
	store    nixstore.Files

	mu   sync.Mutex
	used map[string]bool // store paths
}

// startRelay listens at the socket to which Nix's commands connect. daemon is the socket of the daemon.
func startRelay(listenAt, daemon string, store nixstore.Files) (*relay, error) {
	listener, err := listenLocally(listenAt)
	if err != nil {
		return nil, err
	}
	r := &relay{listener: listener, socket: daemon, store: store, used: make(map[string]bool)}
	go r.serve()
	return r, nil
}

// close accepts no more connections. Existing ones remain open.
func (r *relay) close() { r.listener.Close() }

// acceptPause is how long a relay waits before it accepts again, if too many files are open.
const acceptPause = 50 * time.Millisecond

func (r *relay) serve() {
	for {
		client, err := r.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(acceptPause)
			continue
		}
		go r.pass(client)
	}
}

// pass connects to the daemon for a client, and copies the data of the two connections.
func (r *relay) pass(client *net.UnixConn) {
	defer client.Close() // without a daemon, the command gets a closed connection
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

// look notes the store paths that the running commands use.
func (r *relay) look() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.store.TempRoots(func(path string) { r.used[path] = true })
}

// paths returns the store paths that commands have used so far, in any order.
func (r *relay) paths() []string {
	r.look()
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.used))
}

// dialLike connects to a socket as the user of the client: the daemon asks the kernel which user has
// connected.
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

// peer returns the process that has connected, and its user.
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

// actAs calls do as another user. Only the effective ids of one thread change, so that the other user
// cannot send signals to this process.
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
		return restored // the thread remains locked, so it ends with its goroutine
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
