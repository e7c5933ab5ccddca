//go:build integration && long

package agent

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

// TestARM64Node has an agent for arm64 run in an emulator, before an engine that says it is one for arm64. The
// server, which is for amd64, runs the agent's own program there in the containers of jobs for arm64.
func TestARM64Node(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Fatal("this test is written for amd64: arm64 is no other machine here")
	}
	program := filepath.Join(t.TempDir(), "iglu-builder")
	for version, text := range map[string]string{"tests": program, "earlier": program + "-earlier"} {
		build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w -X main.version="+version, "-o", text, "iglu.sh/builder/cmd/iglu-builder")
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=arm64")
		if output, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, output)
		}
	}
	engine := fixture.DockerEngine().SayingAtSocket(t, "/version", `"amd64"`, `"arm64"`)
	own := fixture.StartAgent(t, fixture.OnPodman(t), "127.0.0.1")
	earlier := own.AnotherBy(t, engine, "qemu-aarch64-static", program+"-earlier")
	same := own.AnotherBy(t, engine, "qemu-aarch64-static", program)
	address := func(a *fixture.Agent) string { return net.JoinHostPort("127.0.0.1", a.Port) }
	s := fixture.ServerWith(t, func(s *server.Settings) {
		s.Nodes = []string{address(own), address(earlier), address(same)}
		s.AgentKeys = filepath.Join(own.Keys, "server")
	})
	t.Cleanup(func() { fixture.RemoveAll(own.Engine.Host, s.Instance) })
	for _, want := range []string{
		"it runs linux/arm64, and the agent's version is earlier: start an agent of this server's version there, tests",
		`msg="node connected" address=` + address(own), `msg="node connected" address=` + address(same),
	} {
		if err := s.Log.Await(time.Minute, func(text string) bool { return strings.Contains(text, want) }); err != nil {
			t.Fatalf("%q: %v\n%s", want, err, s.Log.String())
		}
	}
	emulated := fixture.EmulateARM64(t)
	request := fixture.Command("sh -c 'echo ran'")
	request.Arch = "aarch64-linux"
	if got := fixture.DoIn(t, schemas.Stack, s, request); emulated {
		fixture.WantExit(t, got, 0)
	}
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("sh -c 'echo ran'")), 0)
	var platforms []string
	for _, node := range fixture.Nodes(t, s) {
		if node.Up {
			platforms = append(platforms, node.Platform)
		}
	}
	if got := strings.Join(slices.Sorted(slices.Values(platforms)), " "); got != "linux/amd64 linux/arm64" {
		t.Errorf("the nodes' platforms are %s", got)
	}

	// The engine of the arm64 node has its agent's program, whole.
	volumes := fixture.Docker(t, "volume", "ls", "--quiet", "--filter", "name=iglu-builder-"+s.Instance+"-program-")
	if strings.Count(volumes, "program-") != 1 {
		t.Fatalf("the volumes of programs are %q\n%s", volumes, s.Log.String())
	}
	container := strings.TrimSpace(fixture.Docker(t, "create", "--volume", strings.TrimSpace(volumes)+":/iglu", fixture.Env.Image, "true"))
	copied := filepath.Join(t.TempDir(), "copied")
	fixture.Docker(t, "cp", container+":/iglu/iglu-builder", copied)
	fixture.Docker(t, "rm", container)
	if output, err := exec.Command("cmp", program, copied).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, output)
	}
}
