package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// containersConf lets Podman start containers where the machine's own hard limits are low
// and its cgroups are of both versions.
const containersConf = `[containers]
default_ulimits=["nofile=20000:20000","nproc=20000:20000"]
[engine]
runtime="runc"
cgroup_manager="cgroupfs"
`

// registriesConf lets it pull from the registry of a test.
const registriesConf = `[[registry]]
location = "127.0.0.1"
insecure = true
`

// asNobody runs a program as the user nobody, who gets more users to give to containers. What
// the program leaves running ends with the shell, which is the first process of its namespace.
const asNobody = `echo nobody:1000000:65536 > subids &&
mount --bind subids /etc/subuid && mount --bind subids /etc/subgid &&
setpriv --reuid nobody --regid nogroup --clear-groups "$@"
exit`

// podman is Podman's service with images and containers of its own.
type podman struct {
	folder   string
	rootless bool
	service  *exec.Cmd
}

// rootless has a Podman run without root.
func rootless(p *podman) { p.rootless = true }

// newPodman makes one, which is not started yet.
func newPodman(options ...func(*podman)) (*podman, error) {
	folder, err := os.MkdirTemp("", "iglu-podman-") // short, for the sake of socket names
	if err != nil {
		return nil, err
	}
	p := &podman{folder: folder}
	for _, option := range options {
		option(p)
	}
	if p.rootless {
		err = os.Chown(folder, nobody, nobody)
	}
	return p, errors.Join(err,
		os.WriteFile(p.in("containers.conf"), []byte(containersConf), 0o644),
		os.WriteFile(p.in("registries.conf"), []byte(registriesConf), 0o644))
}

// nobody is that user's number, and his group's.
const nobody = 65534

// ownPodman starts one for one test.
func ownPodman(t *testing.T, options ...func(*podman)) *podman {
	t.Helper()
	p, err := newPodman(options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.remove(); err != nil {
			t.Error(err)
		}
	})
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *podman) in(name string) string { return filepath.Join(p.folder, name) }

func (p *podman) host() string { return "unix://" + p.in("podman.sock") }

func (p *podman) command(args ...string) *exec.Cmd {
	own := []string{"--root", p.in("root"), "--runroot", p.in("run"), "--network-config-dir", p.in("networks"), "--storage-driver", "overlay"}
	command := exec.Command("podman", append(own, args...)...)
	environ := os.Environ()
	if p.rootless {
		namespaces := []string{"--mount", "--mount-proc", "--pid", "--fork", "--kill-child", "sh", "-c", asNobody, "sh"}
		command = exec.Command("unshare", append(namespaces, command.Args...)...)
		environ = append(environ, "HOME="+p.folder, "XDG_RUNTIME_DIR="+p.folder)
	}
	command.Dir = p.folder // where files are left when a job runs out of memory
	command.Env = append(environ, "CONTAINERS_CONF="+p.in("containers.conf"), "CONTAINERS_REGISTRIES_CONF="+p.in("registries.conf"),
		// Whoever asks for its version has it ask which packages its programs are of, which takes
		// seconds where there are many.
		"DPKG_ADMINDIR="+p.folder)
	return command
}

func (p *podman) start() error {
	p.service = p.command("system", "service", "--time=0", p.host())
	return startDaemon(p.service, p.host(), p.in("log"))
}

func (p *podman) process() *os.Process { return p.service.Process }

// stop ends the service. Its containers go on.
func (p *podman) stop(signal os.Signal) {
	p.service.Process.Signal(signal)
	p.service.Wait()
}

// remove ends the service and removes all that it has.
func (p *podman) remove() error {
	if p.rootless {
		p.stop(syscall.SIGKILL)
		return os.RemoveAll(p.folder)
	}
	p.stop(syscall.SIGTERM)
	p.command("rm", "--all", "--force").Run()
	p.command("volume", "rm", "--all", "--force").Run()
	p.command("network", "prune", "--force").Run()
	for _, mounted := range []string{"root/overlay", "root"} {
		syscall.Unmount(p.in(mounted), syscall.MNT_DETACH)
	}
	return os.RemoveAll(p.folder)
}
