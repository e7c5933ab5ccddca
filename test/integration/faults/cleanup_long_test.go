//go:build integration && long

package faults

import (
	"strconv"
	"syscall"
	"testing"
	"time"

	"iglu.sh/builder/test/kit/fixture"
)

// TestEngineKilled kills an engine during a job. The job ends without the engine, and after a restart of the
// engine the builder works again.
func TestEngineKilled(t *testing.T) { fixture.OnEngines(t, engineKilled) }

func engineKilled(t *testing.T, shared *fixture.Engine) {
	e := shared.Own(t)
	importTool(t, e.Host, "tool:1")
	s := e.Process(t, "test", "--job-image", "tool:1", "--job-network", "none", "--allowed-commands", "tool")
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command("tool serve --listen 127.0.0.1:0")))
	c.WaitFor("msg=listening")
	pid, err := strconv.Atoi(e.Docker(t, "inspect", "--format", "{{.State.Pid}}", e.Docker(t, "container", "ls", "--quiet")))
	if err != nil {
		t.Fatal(err)
	}
	job := fixture.WatchProcess(t, pid)
	e.Stop(syscall.SIGKILL)
	if job.HasEnded(0) && !e.IsPodman() { // on Podman the job ends immediately
		t.Fatal("the job ended with the engine") // so the test would show nothing
	}
	if !job.HasEnded(2 * time.Minute) {
		t.Error("the job is still running")
	}
	e.Start(t)
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("tool --help")), 0)
	wantEmpty(t, e)
}
