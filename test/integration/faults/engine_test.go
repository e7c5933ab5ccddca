//go:build integration

package faults

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// importTool makes an image that contains only this program, as the command tool.
func importTool(t *testing.T, host, image string) {
	t.Helper()
	program, err := os.ReadFile(fixture.Env.Program)
	if err != nil {
		t.Fatal(err)
	}
	fixture.ImportProgram(t, host, image, program, "tool")
}

// serverOn starts a builder on an engine. Its jobs may run the command tool.
func serverOn(t *testing.T, host, image string) *fixture.Server {
	t.Helper()
	return fixture.ServerWith(t, func(s *server.Settings) {
		s.EngineHost = host
		s.JobImage, s.JobNetwork, s.AllowedCommands = image, "none", []string{"tool"}
	})
}

// TestEngineStopsAndComesBack stops the engine between jobs and starts it again, and then kills it during a job.
func TestEngineStopsAndComesBack(t *testing.T) { fixture.OnEngines(t, engineStopsAndComesBack) }

func engineStopsAndComesBack(t *testing.T, shared *fixture.Engine) {
	e := shared.Own(t)
	importTool(t, e.Host, "tool:1")
	s := serverOn(t, e.Host, "tool:1")
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("tool --help")), 0)

	e.Stop(syscall.SIGTERM)
	begun := time.Now()
	got := fixture.Do(t, s, fixture.Command("tool --help"))
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the client got the error after %s", took)
	}
	if len(got.Messages) != 2 || !strings.Contains(got.Messages[1], "The container engine does not answer.") || got.CloseCode != 1011 {
		t.Errorf("with the engine stopped: %+v", got)
	}
	if status, _ := s.Get(t, "GET", "/api/v1/healthcheck"); status != 503 {
		t.Errorf("with the engine stopped, the health check is %d", status)
	}
	e.Start(t)
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("tool --help")), 0)

	c := fixture.Connect(t, s)
	c.Send(`{"git":{"noClone":true},"buildOptions":{"command":"tool serve --listen 127.0.0.1:0","cachix":{"push":false}}}`)
	c.WaitFor("msg=listening")
	e.Stop(syscall.SIGKILL)
	got = c.Finish()
	if len(got.Messages) != 1 || !strings.Contains(got.Messages[0], "The container engine stopped answering") || got.CloseCode != 1011 {
		t.Errorf("with the engine killed: %+v", got)
	}
	e.Start(t)
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("tool --help")), 0)
	wantEmpty(t, e)
}

// wantEmpty waits until an engine has no containers, and fails the test if it keeps any.
func wantEmpty(t *testing.T, e *fixture.OwnEngine) {
	t.Helper()
	left := func() string { return e.Docker(t, "container", "ls", "--all", "--quiet") }
	if err := fixture.AwaitEngine(e.Host, 10*time.Second, func() bool { return left() == "" }); err != nil {
		t.Errorf("containers left: %s", left())
	}
}

// TestPull pulls the job image from a registry. If the image cannot be pulled, the client gets the reason.
func TestPull(t *testing.T) { fixture.OnEngines(t, pull) }

func pull(t *testing.T, e *fixture.Engine) {
	registry := startRegistry(t)
	image := registry + "/iglu/tool:1"
	importTool(t, "", image)
	fixture.Docker(t, "push", "--quiet", image)
	fixture.Docker(t, "image", "rm", image)
	e.CleanUp(t, "image", "rm", image)

	tools := func(image string) *fixture.Server {
		return e.Server(t, func(s *server.Settings) { s.JobImage, s.AllowedCommands = image, []string{"tool"} })
	}
	s := tools(image)
	got := fixture.Do(t, s, fixture.Command("tool --help"))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "iglu: pulling "+image)
	if e.IsPodman() {
		fixture.WantLine(t, got, "iglu: pulled ") // and nothing more
	} else {
		fixture.WantLine(t, got, "Downloaded newer image for "+image)
	}
	fixture.WantLine(t, got, "iglu: job image "+image+", sha256:")
	if got := fixture.Do(t, s, fixture.Command("tool --help")); len(got.Lines) == 0 || strings.Contains(strings.Join(got.Lines, "\n"), "pulling") {
		t.Errorf("the second job pulls again: %v", got.Lines)
	}

	missing := tools(registry + "/iglu/nothing:1")
	got = fixture.Do(t, missing, fixture.Command("tool --help"))
	if len(got.Messages) != 2 || !strings.Contains(got.Messages[1], "cannot be pulled") {
		t.Errorf("without the image: %+v", got)
	}
}

// startRegistry starts a real registry and returns its host and port.
func startRegistry(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // for a free port
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	folder := t.TempDir()
	config := "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: " + folder + "\nhttp:\n  addr: " + address + "\n"
	name := filepath.Join(folder, "config.yml")
	if err := os.WriteFile(name, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command("docker-registry", "serve", name)
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { daemon.Process.Kill(); daemon.Wait() })
	if err := fixture.AwaitListener(address); err != nil {
		t.Fatal(err)
	}
	return address
}

// TestOtherPlatform runs a builder on an engine that reports another CPU architecture. It is the real engine
// behind a proxy that changes that word.
func TestOtherPlatform(t *testing.T) { fixture.OnEngines(t, otherPlatform) }

func otherPlatform(t *testing.T, e *fixture.Engine) {
	s := e.ServerVia(t, e.Saying(t, "/version", `"amd64"`, `"riscv64"`), func(*server.Settings) {})
	got := fixture.Do(t, s, fixture.Command("nix --version"))
	if len(got.Messages) != 2 || !strings.Contains(got.Messages[1], "runs linux/riscv64, but this builder is made for linux/amd64") {
		t.Errorf("got %+v", got)
	}
}
