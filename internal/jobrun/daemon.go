package jobrun

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/internal/push"
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

// A daemon is Nix's, of one job.
type daemon struct {
	job      jobenv.Job
	root     runner
	settings string // lines of nix.conf for it alone
	trusts   trust  // beside whom its settings name
}

// newDaemon returns a job's daemon, which is not started, and what runs the job's programs so that
// their Nix has the settings that are for all of the container's. ofSystems are some of these.
func newDaemon(job jobenv.Job, root, r runner, ofSystems string, pusher *push.Pusher) (daemon, runner, error) {
	cache, ofCache := readPrivate(job, pusher)
	netrc, err := placeNetrc(job.Netrc, ofCache, r.user)
	if err != nil {
		return daemon{}, runner{}, fmt.Errorf("place the netrc: %w", err)
	}
	if conf := job.NixConf + ofSystems + netrc.settings(); conf != "" {
		if err := writeConf(confOfJob, confOfImage(), conf); err != nil {
			return daemon{}, runner{}, fmt.Errorf("write Nix's settings: %w", err)
		}
		variable := confVariable + "=" + confOfJob
		root, r = root.with(variable), r.with(variable)
	}
	return daemon{job, root, netrc.daemonSettings(), cache}, r, nil
}

// start starts the daemon, in a store that is for jobs that trust as much, and in which no process
// is about anything. Whom the job trusts more comes out late. The error is an errUnusable if the job
// can begin with another store.
func (d daemon) start(more trust) error {
	t := d.trusts.and(more)
	if d.job.Store != "" && d.job.StoreOfAll == "" {
		if err := openStore().agree(t.words()); err != nil {
			return err
		}
	}
	if !hasDaemon(d.job) {
		return nil
	}
	err := nixstore.Files{}.ForgetTempRoots()
	if err == nil {
		err = startNixDaemon(d.job, d.settings+t.settings(), d.root.environ, d.root.children)
	}
	if err != nil {
		return errUnusable{fmt.Sprintf("Nix's daemon cannot be started: %v", err)}
	}
	return nil
}

// startNixDaemon starts Nix's daemon for as long as the container lives. It may be called at
// once: connections wait for it in the queue of the socket, which is handed to it as systemd
// does (sd_listen_fds(3)). An image without Nix has none. settings are lines of nix.conf for it
// alone.
func startNixDaemon(job jobenv.Job, settings string, environ []string, children *children) error {
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
	environ = with(environ, jobenv.NixConfig+"="+job.DaemonConfig+settings, "LISTEN_FDS=1")
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
