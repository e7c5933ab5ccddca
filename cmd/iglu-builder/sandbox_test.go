package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/orchestrator"
)

// writeKernelSetting is what a job in the job image does to the host, if it can: it writes
// what stands there.
const writeKernelSetting = `sh -c 'x=$(cat /proc/sys/kernel/core_pattern); echo "$x" > /proc/sys/kernel/core_pattern && echo escaped || exit 2'`

// sandboxedBuild is a build that says where it runs.
const sandboxedBuild = `nix-build -E ` +
	`'derivation { name = "where"; system = builtins.currentSystem; builder = "/bin/sh"; ` +
	`args = ["-c" "echo in $NIX_BUILD_TOP; echo > $out"]; }'`

// loadJobImage copies the job image to another engine.
func loadJobImage(host string) error {
	copying := exec.Command("sh", "-c", `docker save "$1" | docker --host "$2" load`, "sh", world.image, host)
	if output, err := copying.CombinedOutput(); err != nil {
		return fmt.Errorf("copy the job image: %w: %s", err, output)
	}
	return nil
}

// TestSandbox has Nix build in its own sandbox on an engine with user namespaces, by the daemon and
// as root, with no way out; and takes the way out that there is without them.
func TestSandbox(t *testing.T) {
	t.Parallel()
	e := startEngine(t, "--userns-remap", "default")
	if err := loadJobImage(e.host()); err != nil {
		t.Fatal(err)
	}
	for _, user := range []orchestrator.JobUser{orchestrator.UserNix, orchestrator.UserRoot} {
		t.Run(string(user), func(t *testing.T) {
			s := serverVia(t, e.host(), func(s *settings) { s.jobNetwork, s.jobUser = "none", user })
			defer func() {
				if err := s.stop(); err != nil {
					t.Error(err)
				}
			}()
			if !strings.Contains(s.log.String(), "builds run in Nix's own sandbox") {
				t.Errorf("the log does not say so: %s", s.log.String())
			}
			got := do(t, s, command(sandboxedBuild))
			wantExit(t, got, 0)
			wantLine(t, got, "in /build")
			got = do(t, s, command(writeKernelSetting))
			wantExit(t, got, 2)
			wantLine(t, got, "Permission denied")
		})
	}
}

// TestNoSandbox has the container be the sandbox, on engines without user namespaces.
func TestNoSandbox(t *testing.T) { onEngines(t, noSandbox) }

func noSandbox(t *testing.T, e *site) {
	s := e.server(t, func(s *settings) { s.jobUser = orchestrator.UserRoot })
	wantContainerAsSandbox(t, s)
	got := do(t, s, command(writeKernelSetting))
	wantExit(t, got, 2)
	wantLine(t, got, "Read-only file system")

	if e.isPodman() { // where it cannot be on
		return
	}
	// What the sandbox would open: without user namespaces it must not be on.
	unsafe := e.server(t, func(s *settings) {
		s.jobUser, s.sandbox, s.sandboxUnsafe = orchestrator.UserRoot, orchestrator.SandboxOn, true
	})
	got = do(t, unsafe, command(writeKernelSetting))
	wantExit(t, got, 0)
	wantLine(t, got, "escaped")
}

func wantContainerAsSandbox(t *testing.T, s *server) {
	t.Helper()
	if !strings.Contains(s.log.String(), "the container is the sandbox of builds") {
		t.Errorf("the log does not say so: %s", s.log.String())
	}
}

// TestSandboxRefused has a server not start with the sandbox on where it is not safe, or
// does not work.
func TestSandboxRefused(t *testing.T) {
	onEngines(t, func(t *testing.T, e *site) {
		if e.isPodman() {
			e.wantSandboxRefused(t, "does not work on Podman", "--nix-sandbox-unsafe", "yes")
		} else {
			e.wantSandboxRefused(t, "IGLU_NIX_SANDBOX_UNSAFE=yes")
		}
	})
}

// wantSandboxRefused checks that a server does not start with the sandbox on, and says why.
func (e *site) wantSandboxRefused(t *testing.T, why string, flags ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	serve := exec.CommandContext(ctx, world.program, append([]string{"serve", "--listen", "127.0.0.1:0",
		"--instance", "test-" + strings.ToLower(rand.Text()[:10]), "--state-dir", t.TempDir(), "--nix-sandbox", "on"}, flags...)...)
	serve.Env = e.environ()
	output, err := serve.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !strings.Contains(string(output), why) {
		t.Errorf("%v: %s", err, output)
	}
}

// TestRootlessPodman has a Podman that runs without root. A newer one than 4.3 says so of
// itself; this test sees to it that every one does.
func TestRootlessPodman(t *testing.T) {
	t.Parallel()
	p := ownPodman(t, rootless)
	if err := loadJobImage(p.host()); err != nil {
		t.Fatal(err)
	}
	e := &site{name: "podman", host: p.host()}
	host := e.saying(t, "/info", `"SecurityOptions":[`, `"SecurityOptions":["name=rootless",`)
	// A network would need a program that Debian only recommends.
	s := e.serverVia(t, host, func(s *settings) { s.jobNetwork = "none" })
	wantContainerAsSandbox(t, s)
	got := do(t, s, command(sandboxedBuild))
	wantExit(t, got, 0)
	wantLine(t, got, "in /nix/var/nix/builds/")
	(&site{name: "podman", host: host}).wantSandboxRefused(t, "does not work on Podman")
}
