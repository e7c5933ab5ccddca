package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
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

// podman is Podman's service with images and containers of its own.
type podman struct {
	folder  string
	service *exec.Cmd
}

// startPodman starts one and returns where it listens, and what stops it.
func startPodman() (host string, stop func() error, err error) {
	folder, err := os.MkdirTemp("", "iglu-podman-") // short, for the sake of socket names
	if err != nil {
		return "", nil, err
	}
	p := &podman{folder: folder}
	err = errors.Join(
		os.WriteFile(p.in("containers.conf"), []byte(containersConf), 0o600),
		os.WriteFile(p.in("registries.conf"), []byte(registriesConf), 0o600))
	if err == nil {
		err = p.start()
	}
	return p.host(), p.remove, err
}

func (p *podman) in(name string) string { return filepath.Join(p.folder, name) }

func (p *podman) host() string { return "unix://" + p.in("podman.sock") }

func (p *podman) command(args ...string) *exec.Cmd {
	own := []string{"--root", p.in("root"), "--runroot", p.in("run"), "--network-config-dir", p.in("networks")}
	command := exec.Command("podman", append(own, args...)...)
	command.Env = append(os.Environ(), "CONTAINERS_CONF="+p.in("containers.conf"), "CONTAINERS_REGISTRIES_CONF="+p.in("registries.conf"))
	return command
}

func (p *podman) start() error {
	p.service = p.command("system", "service", "--time=0", p.host())
	log, err := os.Create(p.in("log"))
	if err != nil {
		return err
	}
	defer log.Close()
	p.service.Stdout, p.service.Stderr = log, log
	if err := p.service.Start(); err != nil {
		return err
	}
	if err := poll(time.Minute, func() bool { return exec.Command("docker", "--host", p.host(), "info").Run() == nil }); err != nil {
		text, _ := os.ReadFile(p.in("log"))
		return fmt.Errorf("Podman does not start: %w\n%s", err, text)
	}
	return nil
}

// remove ends the service and removes all that it has.
func (p *podman) remove() error {
	p.service.Process.Signal(syscall.SIGTERM)
	p.service.Wait()
	p.command("rm", "--all", "--force").Run()
	p.command("volume", "rm", "--all", "--force").Run()
	p.command("network", "prune", "--force").Run()
	for _, mounted := range []string{"root/overlay", "root"} {
		syscall.Unmount(p.in(mounted), syscall.MNT_DETACH)
	}
	return os.RemoveAll(p.folder)
}
