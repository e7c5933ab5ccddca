//go:build integration

package isolation

import (
	"strings"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/orchestrator/docker"
	"iglu.sh/builder/test/kit/fixture"
)

// writeKernelSetting is what a job in the job image does to the host, if it can: it writes
// what stands there.
const writeKernelSetting = `sh -c 'x=$(cat /proc/sys/kernel/core_pattern); echo "$x" > /proc/sys/kernel/core_pattern && echo escaped || exit 2'`

// sandboxedBuild is a build that says where it runs.
const sandboxedBuild = `nix-build -E ` +
	`'derivation { name = "where"; system = builtins.currentSystem; builder = "/bin/sh"; ` +
	`args = ["-c" "echo in $NIX_BUILD_TOP; echo > $out"]; }'`

// TestSandbox has Nix build in its own sandbox on an engine with user namespaces, by the daemon and
// in the long suite as root, with no way out; and takes the way out that there is without them.
func TestSandbox(t *testing.T) {
	t.Parallel()
	e := fixture.StartEngine(t, "--userns-remap", "default")
	if err := fixture.LoadJobImage(e.Host()); err != nil {
		t.Fatal(err)
	}
	users := []orchestrator.JobUser{orchestrator.UserNix, orchestrator.UserRoot}
	for _, user := range users[:fixture.Size(1, 2)] {
		t.Run(string(user), func(t *testing.T) {
			s := fixture.ServerVia(t, e.Host(), func(s *server.Settings) { s.JobNetwork, s.JobUser = "none", user })
			defer func() {
				if err := s.Stop(); err != nil {
					t.Error(err)
				}
			}()
			if !strings.Contains(s.Log.String(), "builds run in Nix's own sandbox") {
				t.Errorf("the log does not say so: %s", s.Log.String())
			}
			got := fixture.Do(t, s, fixture.Command(sandboxedBuild))
			fixture.WantExit(t, got, 0)
			fixture.WantLine(t, got, "in /build")
			got = fixture.Do(t, s, fixture.Command(writeKernelSetting))
			fixture.WantExit(t, got, 2)
			fixture.WantLine(t, got, "Permission denied")
		})
	}
}

// TestNoSandbox has the container be the sandbox, on engines without user namespaces.
func TestNoSandbox(t *testing.T) { fixture.OnEngines(t, noSandbox) }

func noSandbox(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(s *server.Settings) { s.JobUser = orchestrator.UserRoot })
	wantContainerAsSandbox(t, s)
	got := fixture.Do(t, s, fixture.Command(writeKernelSetting))
	fixture.WantExit(t, got, 2)
	fixture.WantLine(t, got, "Read-only file system")

	if e.IsPodman() { // where it cannot be on
		return
	}
	// What the sandbox would open: without user namespaces it must not be on.
	unsafe := e.Server(t, func(s *server.Settings) {
		s.JobUser, s.Sandbox, s.SandboxUnsafe = orchestrator.UserRoot, docker.SandboxOn, true
	})
	got = fixture.Do(t, unsafe, fixture.Command(writeKernelSetting))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "escaped")
}

func wantContainerAsSandbox(t *testing.T, s *fixture.Server) {
	t.Helper()
	if !strings.Contains(s.Log.String(), "the container is the sandbox of builds") {
		t.Errorf("the log does not say so: %s", s.Log.String())
	}
}
