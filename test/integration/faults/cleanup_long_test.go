//go:build integration && long

package faults

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"iglu.sh/builder/test/kit/fixture"
)

// TestEngineKilled kills an engine: the job that it ran ends by itself, and when the engine
// is back, so is the builder.
func TestEngineKilled(t *testing.T) { fixture.OnEngines(t, engineKilled) }

func engineKilled(t *testing.T, shared *fixture.Engine) {
	e := shared.Own(t)
	importTool(t, e.Host, "tool:1")
	s := e.Process(t, "test", "--job-image", "tool:1", "--job-network", "none", "--allowed-commands", "tool")
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command("tool serve --listen 127.0.0.1:0")))
	c.WaitFor("msg=listening")
	pid := e.Docker(t, "inspect", "--format", "{{.State.Pid}}", e.Docker(t, "container", "ls", "--quiet"))
	program := filepath.Join("/proc", pid, "exe")
	e.Stop(syscall.SIGKILL)
	if _, err := os.Readlink(program); err != nil && !e.IsPodman() { // whose end the job sees at once
		t.Fatalf("the job ended with the engine: %v", err) // and there is nothing to test
	}
	if err := fixture.Poll(2*time.Minute, func() bool { _, err := os.Readlink(program); return err != nil }); err != nil {
		t.Errorf("the job goes on: %v", err)
	}
	e.Start(t)
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("tool --help")), 0)
	wantEmpty(t, e)
}
