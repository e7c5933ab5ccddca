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

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/lazyregexp"
	"iglu.sh/builder/internal/nixlog"
	"iglu.sh/builder/internal/nixstore"
)

// nixDrain is how long the logs of Nix processes are read after the command has ended. Only processes
// that the command has left running can still write.
const nixDrain = time.Second

// A nixListener reads the logs for programs that the job's Nix processes write, each on a connection of its
// own. What they print for people does not change.
type nixListener struct {
	log      *nixlog.Log
	socket   *net.UnixListener
	accepted chan struct{} // closed when no more connections are accepted
	readers  sync.WaitGroup
	colors   *colorer // nil: the job wants no colours

	mu    sync.Mutex
	conns map[*net.UnixConn]bool
}

// listenToNix starts to listen. Only root and the job's user can connect, so no build can. colors may be
// nil.
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

// accept accepts connections until one is from this process: see close.
func (n *nixListener) accept() {
	defer close(n.accepted)
	for {
		conn, err := n.socket.AcceptUnix()
		if err != nil {
			return
		}
		if who, err := peer(conn); err == nil && int(who.Pid) == os.Getpid() {
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

// close stops listening after the command has ended. First everything that the command's processes have
// written is read. Connections are accepted in their order, so close makes one, which is the last.
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

// setting returns an environment in which Nix writes its log to the listener. The daemon, which the push
// uses, does not need it.
func (n *nixListener) setting(environ []string) []string {
	return withSettings(environ, "json-log-path = "+jobenv.NixLog+"\n")
}

// hasJSONLog reports whether a program of this version of Nix supports the setting json-log-path. The old
// commands ignore it, and an older 'nix' warns about it.
func hasJSONLog(version, program string) bool {
	return version != "" && !isOlder(version, "2.30") && !olderCommands[filepath.Base(program)]
}

// testedNix is the oldest Nix with which the builder is tested. docs/job-image.md describes what does not
// work with older ones.
const testedNix = "2.34"

// isOlder compares two versions of Nix by their first two numbers.
func isOlder(version, than string) bool {
	var major, minor, thanMajor, thanMinor int
	fmt.Sscanf(version, "%d.%d", &major, &minor)
	fmt.Sscanf(than, "%d.%d", &thanMajor, &thanMinor)
	return major < thanMajor || major == thanMajor && minor < thanMinor
}

// olderCommands are Nix's commands other than 'nix'. Programs of other projects with such names run 'nix'.
var olderCommands = map[string]bool{
	"nix-build": true, "nix-channel": true, "nix-collect-garbage": true, "nix-copy-closure": true, "nix-env": true, "nix-hash": true,
	"nix-instantiate": true, "nix-prefetch-url": true, "nix-shell": true, "nix-store": true,
}

// nixVersion matches the version in the output of 'nix --version' and in the name of Nix's store path. Determinate Nix
// has a version of its own, which is in its path, and prints after it that of the Nix that it is made from.
var nixVersion = lazyregexp.New(`(?:^nix \((?:Determinate Nix[^)]*|Nix)\) |/[0-9a-z]+-nix-)(\d+\.\d+[^/\s]*)`)

// versionIn returns the version of Nix in a text, or "".
func versionIn(text string) string {
	if match := nixVersion().FindStringSubmatch(text); match != nil {
		return match[1]
	}
	return ""
}

// askVersion starts to find out the version of the image's Nix, and returns a function that waits for the
// answer. The version is usually in the program's path, or known from an earlier job. Otherwise the
// program is run in the background, because that takes a while.
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
