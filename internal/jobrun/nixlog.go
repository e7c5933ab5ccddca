package jobrun

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/lazyregexp"
	"iglu.sh/builder/internal/nixlog"
	"iglu.sh/builder/internal/nixstore"
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
	colors   *colorer // nil: none are wanted

	mu    sync.Mutex
	conns map[*net.UnixConn]bool
}

// listenToNix begins to listen, also for colours. Only root and the job's user can connect: no build.
func (b *builder) listenToNix(colors *colorer) (*nixListener, error) {
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: jobenv.NixLog, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chmod(jobenv.NixLog, 0o600), b.runner.user.own(jobenv.NixLog)); err != nil {
		socket.Close()
		return nil, err
	}
	n := &nixListener{log: nixlog.New(b.reporter.Event, nixstore.Files{}, sync.OnceValue(b.secrets)), socket: socket, accepted: make(chan struct{}), colors: colors, conns: make(map[*net.UnixConn]bool)}
	if colors != nil {
		n.log.OnShown(colors.show)
	}
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
		n.colors.logOpened()
		n.readers.Go(func() {
			n.log.Read(n.colors.logReader(conn))
			n.colors.logClosed()
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
	return withSettings(environ, "json-log-path = "+jobenv.NixLog+"\n")
}

// hasJSONLog says of a program and the image's version of Nix whether it knows the setting
// json-log-path. The older commands ignore it, and an older 'nix' warns about it.
func hasJSONLog(version, program string) bool {
	return version != "" && !isOlder(version, "2.30") && !olderCommands[filepath.Base(program)]
}

// testedNix is the oldest Nix with which the builder is tested. docs/job-image.md says what
// older ones were seen to do.
const testedNix = "2.34"

// isOlder compares the first two numbers of two versions of Nix.
func isOlder(version, than string) bool {
	var major, minor, thanMajor, thanMinor int
	fmt.Sscanf(version, "%d.%d", &major, &minor)
	fmt.Sscanf(than, "%d.%d", &thanMajor, &thanMinor)
	return major < thanMajor || major == thanMajor && minor < thanMinor
}

// olderCommands are Nix's own beside 'nix'. Others that are named like them run 'nix'.
var olderCommands = map[string]bool{
	"nix-build": true, "nix-channel": true, "nix-collect-garbage": true, "nix-copy-closure": true, "nix-env": true, "nix-hash": true,
	"nix-instantiate": true, "nix-prefetch-url": true, "nix-shell": true, "nix-store": true,
}

// nixVersion is how Nix names its version, and the end of its folder's name in a store.
var nixVersion = lazyregexp.New(`(?:^nix \(Nix\) |-nix-)(\d+\.\d+[^/\s]*)`)

// versionIn returns the version that a text names, or "".
func versionIn(text string) string {
	if match := nixVersion().FindStringSubmatch(text); match != nil {
		return match[1]
	}
	return ""
}

// askVersion begins to find out which Nix the image has, and returns what waits for the
// answer. The path of the program mostly tells it, or an earlier job did; else the program
// does, which takes it longer than the beginning of a job should wait.
func askVersion(known string, r runner) (version func() string) {
	program, err := exec.LookPath("nix")
	if err != nil {
		return func() string { return "" }
	}
	if real, err := filepath.EvalSymlinks(program); err == nil && versionIn(real) != "" {
		return func() string { return versionIn(real) }
	}
	if known != "" {
		return func() string { return known }
	}
	answer := make(chan string, 1)
	go func() {
		text, _ := r.output("nix", "--version")
		answer <- versionIn(text)
	}()
	return func() string { return <-answer }
}
