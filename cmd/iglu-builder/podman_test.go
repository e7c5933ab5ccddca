package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
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

// startPodman starts Podman's service, with images and containers of its own, and returns
// where it listens.
func startPodman(t *testing.T) (host string) {
	t.Helper()
	folder, err := os.MkdirTemp("", "iglu-podman-") // short, for the sake of socket names
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(folder, name) }
	if err := os.WriteFile(in("containers.conf"), []byte(containersConf), 0o600); err != nil {
		t.Fatal(err)
	}
	own := []string{"--root", in("root"), "--runroot", in("run"), "--network-config-dir", in("networks")}
	podman := func(args ...string) *exec.Cmd {
		command := exec.Command("podman", append(own, args...)...)
		command.Env = append(os.Environ(), "CONTAINERS_CONF="+in("containers.conf"))
		return command
	}
	host = "unix://" + in("podman.sock")
	service := podman("system", "service", "--time=0", host)
	log, err := os.Create(in("log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	service.Stdout, service.Stderr = log, log
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		service.Process.Signal(syscall.SIGTERM)
		service.Wait()
		podman("rm", "--all", "--force").Run()
		podman("volume", "rm", "--all", "--force").Run()
		podman("network", "prune", "--force").Run()
		for _, mounted := range []string{"root/overlay", "root"} {
			syscall.Unmount(in(mounted), syscall.MNT_DETACH)
		}
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	if err := poll(time.Minute, func() bool { return exec.Command("docker", "--host", host, "info").Run() == nil }); err != nil {
		text, _ := os.ReadFile(in("log"))
		t.Fatalf("Podman does not start: %v\n%s", err, text)
	}
	return host
}

// TestPodman runs the builder on Podman: builds, exit codes, every end of a job that the
// engine has a part in, the attempts to get out, and what is left.
func TestPodman(t *testing.T) {
	host := startPodman(t)
	onPodman := func(args ...string) string { return docker(t, append([]string{"--host", host}, args...)...) }
	loadJobImage(t, host)
	importProgram(t, host, "attack:1", buildProgram(t, "attack"), "attack")
	serve := func(change func(*settings)) *server {
		s := serverVia(t, host, change)
		t.Cleanup(func() {
			if err := s.stop(); err != nil {
				t.Error(err)
			}
		})
		return s
	}
	containers := func(s *server) []string {
		return strings.Fields(onPodman("container", "ls", "--all", "--quiet", "--filter", "label=sh.iglu.builder.instance="+s.instance))
	}
	s := serve(func(*settings) {})
	attacker := serve(func(s *settings) {
		s.jobImage, s.allowedCommands = "attack:1", []string{"attack"}
		s.limits.Memory.Fixed = 128 << 20
	})

	t.Run("exit codes", func(t *testing.T) {
		for _, code := range []int{0, 1, 42, 137, 143} {
			wantExit(t, do(t, s, command(fmt.Sprintf("sh -c 'exit %d'", code))), code)
		}
	})
	t.Run("output", func(t *testing.T) {
		got := do(t, s, command("seq 20000"))
		wantExit(t, got, 0)
		if n := len(got.lines); n != 20001 || got.lines[20000] != "20000" {
			t.Errorf("%d lines", n)
		}
	})
	t.Run("build", func(t *testing.T) {
		got := do(t, s, command(sandboxedBuild))
		wantExit(t, got, 0)
		wantLine(t, got, "in /nix/var/nix/builds/")
	})
	t.Run("out of memory", func(t *testing.T) {
		wantMessage(t, do(t, attacker, command("attack memory-hog")), exitedBecause(137, outOfMemory))
		wantMessage(t, do(t, attacker, command("attack bereaved-parent")), exitedBecause(3, outOfMemory))
	})
	t.Run("killed", func(t *testing.T) {
		c := connect(t, s)
		c.send(jsonOf(t, command("sh -c 'echo begun; sleep 1000'")))
		c.waitFor(`"begun"`)
		onPodman("kill", containers(s)[0])
		wantMessage(t, c.finish(), exitedBecause(137, killed))
	})
	t.Run("too long", func(t *testing.T) {
		long := serve(func(s *settings) { s.deadlines.Build = 5 * time.Second })
		wantMessage(t, do(t, long, command("sh -c 'sleep 1000'")), cancelledBecause("It ran longer than 5s, the most that a job may (IGLU_BUILD_TIMEOUT)."))
	})
	t.Run("client gone", func(t *testing.T) {
		c := connect(t, s)
		c.send(jsonOf(t, command("sh -c 'echo begun; sleep 1000'")))
		c.waitFor(`"begun"`)
		c.conn.NetConn().Close()
		wantEnd(t, s, "client-gone")
		if left := containers(s); len(left) > 0 {
			t.Errorf("containers left: %v", left)
		}
	})
	t.Run("no way out", func(t *testing.T) {
		for _, attempt := range []string{"proc-sys", "mount", "mount-proc", "network-namespace", "device",
			"privileges", "raw-socket", "packet-socket", "environ", "memory-of-1", "kernel-log", "engine-socket"} {
			wantRefused(t, do(t, attacker, command("attack "+attempt)))
		}
	})
	t.Run("builder killed", func(t *testing.T) {
		flags := []string{"--job-image", world.image, "--allowed-commands", "sh"}
		killed := startProcessAs(t, "test-killed", host, flags...)
		c := connect(t, killed)
		c.send(jsonOf(t, command("sh -c 'echo begun; sleep 1000'")))
		c.waitFor(`"begun"`)
		container := containers(killed)[0]
		killed.kill()
		if err := poll(time.Minute, func() bool { return onPodman("inspect", "--format", "{{.State.Running}}", container) == "false" }); err != nil {
			t.Errorf("the job goes on: %v", err)
		}
		next := startProcessAs(t, "test-killed", host, flags...)
		if left := containers(next); len(left) > 0 {
			t.Errorf("containers left: %v", left)
		}
	})
}
