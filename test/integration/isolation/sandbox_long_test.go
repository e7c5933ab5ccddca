//go:build integration && long

package isolation

import (
	"context"
	"crypto/rand"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestSandboxRefused checks that a server with the sandbox on does not start if the sandbox is not safe or does
// not work.
func TestSandboxRefused(t *testing.T) {
	fixture.OnEngines(t, func(t *testing.T, e *fixture.Engine) {
		if e.IsPodman() {
			wantSandboxRefused(t, e, "does not work on Podman", "--nix-sandbox-unsafe", "yes")
		} else {
			wantSandboxRefused(t, e, "IGLU_NIX_SANDBOX_UNSAFE=yes")
		}
	})
}

// wantSandboxRefused checks that a server does not start with the sandbox on, and says why.
func wantSandboxRefused(t *testing.T, e *fixture.Engine, why string, flags ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	serve := exec.CommandContext(ctx, fixture.Env.Program, append([]string{"serve", "--listen", "127.0.0.1:0",
		"--instance", "test-" + strings.ToLower(rand.Text()[:10]), "--state-dir", t.TempDir(), "--nix-sandbox", "on"}, flags...)...)
	serve.Env = e.Environ()
	output, err := serve.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !strings.Contains(string(output), why) {
		t.Errorf("%v: %s", err, output)
	}
}

// TestRootlessPodman uses a rootless Podman. Versions after 4.3 report that they are rootless. This test makes
// every version report it.
func TestRootlessPodman(t *testing.T) {
	t.Parallel()
	p := fixture.OwnPodman(t, fixture.Rootless)
	if err := fixture.LoadJobImage(p.Host()); err != nil {
		t.Fatal(err)
	}
	e := &fixture.Engine{Name: "podman", Host: p.Host()}
	host := e.Saying(t, "/info", `"SecurityOptions":[`, `"SecurityOptions":["name=rootless",`)
	// A network would need a program from a package that Debian does not install by default.
	s := e.ServerVia(t, host, func(s *server.Settings) { s.JobNetwork = "none" })
	wantContainerAsSandbox(t, s)
	got := fixture.Do(t, s, fixture.Command(sandboxedBuild))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "in /nix/var/nix/builds/")
	wantSandboxRefused(t, &fixture.Engine{Name: "podman", Host: host}, "does not work on Podman")
}
