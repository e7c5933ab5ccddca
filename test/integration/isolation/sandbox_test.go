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

// writeKernelSetting is a command that writes a kernel setting of the host back unchanged. It succeeds if the
// job is not isolated.
const writeKernelSetting = `sh -c 'x=$(cat /proc/sys/kernel/core_pattern); echo "$x" > /proc/sys/kernel/core_pattern && echo escaped || exit 2'`

// sandboxedBuild is a build that prints where it runs.
const sandboxedBuild = `nix-build -E ` +
	`'derivation { name = "where"; system = builtins.currentSystem; builder = "/bin/sh"; ` +
	`args = ["-c" "echo in $NIX_BUILD_TOP; echo > $out"]; }'`

// TestSandbox builds in Nix's own sandbox on an engine with user namespaces, with the Nix daemon and in the long
// suite as root. The job cannot break out. Without user namespaces, the same attempt succeeds.
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

// TestNoSandbox checks that the container is the only sandbox on engines without user namespaces.
func TestNoSandbox(t *testing.T) { fixture.OnEngines(t, noSandbox) }

func noSandbox(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(s *server.Settings) { s.JobUser = orchestrator.UserRoot })
	wantContainerAsSandbox(t, s)
	got := fixture.Do(t, s, fixture.Command(writeKernelSetting))
	fixture.WantExit(t, got, 2)
	fixture.WantLine(t, got, "Read-only file system")

	if e.IsPodman() { // on which the sandbox cannot be on
		return
	}
	// The sandbox would allow this attack. That is why it must be off without user namespaces.
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
