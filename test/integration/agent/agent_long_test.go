//go:build integration && long

package agent

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestMillionLines sends a million lines through an agent. Each arrives once and in order.
func TestMillionLines(t *testing.T) { fixture.OnEngines(t, millionLines) }

func millionLines(t *testing.T, e *fixture.Engine) {
	const million = 1_000_000
	a := fixture.StartAgent(t, e, "127.0.0.1")
	s := a.Server(t, func(*server.Settings) {})
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command(fmt.Sprintf("sh -c 'echo begun; seq %d; exit 3'", million))))
	c.WaitFor(`"begun"`)
	for n := 1; n <= million; n++ {
		if message, want := c.Next(), fmt.Sprintf(`{"stdout":"%d","jobStatus":"running"}`, n); message != want {
			t.Fatalf("line %d is %s", n, message)
		}
	}
	fixture.WantLast(t, c.Finish(), 3)
}

// TestMemory runs an agent in a container with 15 MiB of memory and no swap, while four jobs print.
func TestMemory(t *testing.T) {
	const jobs, lines = 4, 1_000_000
	e := fixture.DockerEngine()
	keys := filepath.Join(t.TempDir(), "keys")
	if output, err := exec.Command(fixture.Env.Program, "agent", "keys", keys).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	program, err := os.ReadFile(fixture.Env.Program)
	if err != nil {
		t.Fatal(err)
	}
	image := "iglu-test-agent:" + strings.ToLower(rand.Text()[:10])
	fixture.ImportProgram(t, e.Host, image, program, "iglu-builder")
	e.CleanUp(t, "rmi", image)
	container := e.Docker(t, "run", "--detach", "--memory", "15m", "--memory-swap", "15m", "--volume", e.Socket()+":/var/run/docker.sock",
		"--volume", keys+"/agent:/keys:ro", "--env", "IGLU_AGENT_KEYS=/keys", image, "iglu-builder", "agent")
	e.CleanUp(t, "rm", "--force", container)
	ip := e.Docker(t, "inspect", "--format", "{{.NetworkSettings.IPAddress}}", container)
	if err := fixture.AwaitListener(ip + ":2376"); err != nil {
		t.Fatalf("%v: %s", err, e.Docker(t, "logs", container))
	}
	s := e.ServerVia(t, "tcp://"+ip+":2376", func(s *server.Settings) {
		s.AgentKeys, s.MaxJobs = keys+"/server", jobs
	})
	var running sync.WaitGroup
	for range jobs {
		c := fixture.Connect(t, s)
		c.Send(fixture.JSONOf(t, fixture.Command(fmt.Sprintf("sh -c 'echo begun; yes %s | head -n %d; exit 3'", strings.Repeat("0123456789", 7), lines))))
		c.WaitFor(`"begun"`)
		running.Go(func() {
			c.CountLines(lines)
			fixture.WantLast(t, c.Finish(), 3)
		})
	}
	running.Wait()
	if state := e.Docker(t, "inspect", "--format", "{{.State.Status}} {{.State.OOMKilled}} {{.RestartCount}}", container); state != "running false 0" {
		t.Errorf("the agent is %s\n%s", state, e.Docker(t, "logs", container))
	}
}
