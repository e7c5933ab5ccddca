package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"iglu.sh/builder/orchestrator"
)

// writeKernelSetting is what a job in the job image does to the host, if it can: it writes
// what stands there.
const writeKernelSetting = `sh -c 'x=$(cat /proc/sys/kernel/core_pattern); echo "$x" > /proc/sys/kernel/core_pattern && echo escaped'`

// sandboxedBuild is a build that says where it runs. What it needs of the image it gets by
// its file system's names, because not every image's Nix brings a shell for sandboxes.
const sandboxedBuild = `nix-build --option sandbox-paths "/bin/sh /lib=/usr/lib /lib64=/usr/lib64" -E ` +
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

// TestSandbox has Nix build in its own sandbox on an engine with user namespaces, with no
// way out; and takes the way out that there is without them.
func TestSandbox(t *testing.T) {
	t.Parallel()
	e := startEngine(t, "--userns-remap", "default")
	if err := loadJobImage(e.host()); err != nil {
		t.Fatal(err)
	}
	s := serverVia(t, e.host(), func(s *settings) {
		s.jobNetwork = "none"
	})
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
}

// TestNoSandbox has the container be the sandbox, on engines without user namespaces.
func TestNoSandbox(t *testing.T) { onEngines(t, noSandbox) }

func noSandbox(t *testing.T, e *site) {
	s := e.server(t, func(*settings) {})
	if !strings.Contains(s.log.String(), "the container is the sandbox") {
		t.Errorf("the log does not say so: %s", s.log.String())
	}
	got := do(t, s, command(writeKernelSetting))
	wantExit(t, got, 2)
	wantLine(t, got, "Read-only file system")

	// What the sandbox would open: without user namespaces it must not be on.
	unsafe := e.server(t, func(s *settings) { s.sandbox, s.sandboxUnsafe = orchestrator.SandboxOn, true })
	got = do(t, unsafe, command(writeKernelSetting))
	if e.isPodman() { // which takes a profile only as a file on its machine
		if last := got.messages[len(got.messages)-1]; !strings.Contains(last, "opening seccomp profile failed") {
			t.Errorf("got %.300s", last)
		}
		return
	}
	wantExit(t, got, 0)
	wantLine(t, got, "escaped")
}

// TestSandboxRefused has a server not start with the sandbox on where it is not safe.
func TestSandboxRefused(t *testing.T) {
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"serve", "--listen", "127.0.0.1:0", "--state-dir", t.TempDir(), "--nix-sandbox", "on"}, nil, &stdout, &stderr)
	if code != 1 || !strings.Contains(stderr.String(), "IGLU_NIX_SANDBOX_UNSAFE=yes") {
		t.Errorf("exit code %d, %s", code, &stderr)
	}
}
