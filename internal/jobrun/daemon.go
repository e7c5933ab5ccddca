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
	// relayedSocket is the daemon's socket while a relay listens at daemonSocket. Every user may connect
	// to it, too. A command that does so only hides its store paths from its own job's push.
	relayedSocket = "/nix/var/nix/daemon-socket/relayed"
)

// daemonCache is the folder in which the daemon caches the answers of substituters, if the store is kept
// after the job. It belongs to root, unlike jobenv.StoreCache.
const daemonCache = "/nix/var/nix/iglu-daemon-cache"

// A daemon is the nix-daemon of one job.
type daemon struct {
	job      jobenv.Job
	root     runner
	settings string // lines of nix.conf for the daemon only
	trusts   trust  // in addition to what its settings trust
}

// newDaemon returns a job's daemon, which is not started yet. It also returns a runner for the job's
// programs, with the settings that all of the container's Nix have. ofSystems are some of these settings.
func newDaemon(job jobenv.Job, root, r runner, ofSystems string, pusher *push.Pusher) (daemon, runner, error) {
	cache, ofCache := readPrivate(job, pusher)
	netrc, err := placeNetrc(job.Netrc, ofCache, settingsOfOthers(job), r.user)
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

// start starts the daemon, if the job may use the store: see agree. more is what the source's flake
// trusts, which is known only after the source is fetched. The error is an errUnusable if the job can
// begin with another store.
func (d daemon) start(more trust) error {
	t := d.trusts.and(more)
	if d.job.Store != "" && d.job.StoreOfAll == "" {
		others := settingsOfOthers(d.job)
		if err := checkForgeable(d.job, others); err != nil {
			return err
		}
		if err := openStore().agree(agreed(d.job, t, others)); err != nil {
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

// startNixDaemon starts Nix's daemon, which runs until the container ends. Programs can connect as soon
// as this returns: their connections wait in the queue of the socket, which the daemon gets as from
// systemd (sd_listen_fds(3)). If the image has no nix-daemon, nothing is started. settings are lines of
// nix.conf for the daemon only.
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
	// LISTEN_PID must be the process id of the daemon itself.
	argv := []string{"sh", "-c", `LISTEN_PID=$$ exec "$0" --quiet`, program}
	_, err = children.start(process{program: "/bin/sh", argv: argv, dir: "/", environ: environ,
		files: []*os.File{null, os.Stderr, os.Stderr, socket}, remains: true})
	return err
}

// listenLocally listens at a path, to which every user may connect. It replaces the socket of an earlier
// job. The socket's file remains when the listener is closed.
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
