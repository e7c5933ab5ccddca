package jobrun

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"iglu.sh/builder/internal/jobenv"
)

const (
	// daemonSocket is where Nix's commands look for its daemon.
	daemonSocket = "/nix/var/nix/daemon-socket/socket"
	// relayedSocket is where the daemon listens while a relay listens there. Everybody may connect
	// to it as well: a command that does so only hides from its own job what it is about.
	relayedSocket = "/nix/var/nix/daemon-socket/relayed"
)

// daemonCache is the folder in which the daemon caches what it has asked substituters, where
// the store outlives the job. It is root's, unlike jobenv.StoreCache.
const daemonCache = "/nix/var/nix/iglu-daemon-cache"

// startNixDaemon starts Nix's daemon for as long as the container lives. It may be called at
// once: connections wait for it in the queue of the socket, which is handed to it as systemd
// does (sd_listen_fds(3)). An image without Nix has none.
func startNixDaemon(job jobenv.Job, environ []string, children *children) error {
	program, err := exec.LookPath("nix-daemon")
	if err != nil {
		return nil
	}
	name := daemonSocket
	if job.CacheTarget != "" {
		name = relayedSocket
	}
	listener, err := listenLocally(name)
	if err != nil {
		return err
	}
	defer listener.Close()
	socket, err := listener.File()
	if err != nil {
		return fmt.Errorf("hand over a socket: %w", err)
	}
	defer socket.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	environ = without(environ, "NIX_REMOTE", cacheHome)
	environ = with(environ, jobenv.NixConfig+"="+job.DaemonConfig, "LISTEN_FDS=1")
	if job.Store != "" {
		environ = append(environ, cacheHome+"="+daemonCache)
	}
	// It wants to read its own process id in LISTEN_PID.
	argv := []string{"sh", "-c", `LISTEN_PID=$$ exec "$0" --quiet`, program}
	_, err = children.start(process{program: "/bin/sh", argv: argv, dir: "/", environ: environ,
		files: []*os.File{null, os.Stderr, os.Stderr, socket}, remains: true})
	return err
}

// listenLocally listens at a path, to which everybody may connect. An earlier job's socket may be
// there; this one stays when the listener is closed.
func listenLocally(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(path); err != nil {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o666); err != nil {
		listener.Close()
		return nil, err
	}
	return listener, nil
}
