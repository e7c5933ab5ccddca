package jobrun

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/nixlog"
)

// nixDrain bounds the wait for the end of what Nix tells when the command has ended. Only
// what it has left running can still be there.
const nixDrain = time.Second

// A nixListener hears what the job's Nix processes tell for programs, each on a connection of
// its own. Their logs for people stay as they are.
type nixListener struct {
	log      *nixlog.Log
	socket   *net.UnixListener
	accepted chan struct{} // closed when no more connections are taken
	readers  sync.WaitGroup

	mu    sync.Mutex
	conns map[*net.UnixConn]bool
}

// listenToNix begins to listen. Only root can connect: no build.
func listenToNix(t teller) (*nixListener, error) {
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: jobenv.NixLog, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(jobenv.NixLog, 0o600); err != nil {
		socket.Close()
		return nil, err
	}
	n := &nixListener{log: nixlog.New(t.Event), socket: socket, accepted: make(chan struct{}), conns: make(map[*net.UnixConn]bool)}
	go n.accept()
	return n, nil
}

// accept takes connections until it comes upon this process's own.
func (n *nixListener) accept() {
	defer close(n.accepted)
	for {
		conn, err := n.socket.AcceptUnix()
		if err != nil {
			return
		}
		if peerOf(conn) == os.Getpid() {
			conn.Close()
			return
		}
		n.mu.Lock()
		n.conns[conn] = true
		n.mu.Unlock()
		n.readers.Go(func() {
			n.log.Read(conn)
			n.mu.Lock()
			delete(n.conns, conn)
			n.mu.Unlock()
			conn.Close()
		})
	}
}

// peerOf returns the id of the process that has connected.
func peerOf(conn *net.UnixConn) (pid int) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(peer.Pid)
		}
	})
	return pid
}

// close ends the listening when the command has ended. All that it has told is read by then:
// connections come in their order, and ours is the last.
func (n *nixListener) close() {
	if last, err := net.Dial("unix", jobenv.NixLog); err == nil {
		defer last.Close()
	} else {
		n.socket.Close()
	}
	<-n.accepted
	n.mu.Lock()
	for conn := range n.conns {
		conn.SetReadDeadline(time.Now().Add(nixDrain))
	}
	n.mu.Unlock()
	n.readers.Wait()
	n.socket.Close()
	n.log.Close()
}

// setting returns what has Nix tell. The daemon that the push asks need not.
func (n *nixListener) setting(environ []string) []string {
	for _, entry := range environ {
		if config, ok := strings.CutPrefix(entry, jobenv.NixConfig+"="); ok {
			return with(environ, fmt.Sprintf("%s=%s\njson-log-path = %s\n", jobenv.NixConfig, config, jobenv.NixLog))
		}
	}
	return environ
}

// tellsPrograms says of a version of Nix whether it has the setting json-log-path. One that
// has not warns about it.
func tellsPrograms(version string) bool {
	match := nixVersion.FindStringSubmatch(version)
	if match == nil {
		return false
	}
	major, _ := strconv.Atoi(match[1])
	minor, _ := strconv.Atoi(match[2])
	return major > 2 || major == 2 && minor >= 30
}

// nixVersion is how Nix names its version, and the end of its folder's name in a store.
var nixVersion = regexp.MustCompile(`(?:^nix \(Nix\) |-nix-)(\d+)\.(\d+)`)

// askVersion begins to find out which Nix the image has, and returns what waits for the
// answer. The path of the program mostly tells it; else the program does, which takes it
// longer than the beginning of a job should wait.
func askVersion(children *children, environ []string) (version func() string) {
	program, err := exec.LookPath("nix")
	if err != nil {
		return func() string { return "" }
	}
	if real, err := filepath.EvalSymlinks(program); err == nil && nixVersion.MatchString(real) {
		return func() string { return real }
	}
	answer := make(chan string, 1)
	go func() {
		text, _ := outputOf(children, []string{"nix", "--version"}, environ)
		answer <- text
	}()
	return func() string { return <-answer }
}
