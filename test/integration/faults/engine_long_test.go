//go:build integration && long

package faults

import (
	"strings"
	"syscall"
	"testing"

	"iglu.sh/builder/test/kit/fixture"
)

// TestEngineHangs freezes an engine during a job. The client gets an error after a minute, and when the engine
// continues, the builder works again.
func TestEngineHangs(t *testing.T) { fixture.OnEngines(t, engineHangs) }

func engineHangs(t *testing.T, shared *fixture.Engine) {
	e := shared.Own(t)
	importTool(t, e.Host, "tool:1")
	s := serverOn(t, e.Host, "tool:1")
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command("tool serve --listen 127.0.0.1:0")))
	c.WaitFor("msg=listening")
	daemon := e.Daemon.Process()
	daemon.Signal(syscall.SIGSTOP)
	defer daemon.Signal(syscall.SIGCONT)
	got := c.Finish()
	if len(got.Messages) != 1 || !strings.Contains(got.Messages[0], "The container engine does not answer any more.") || got.CloseCode != 1011 {
		t.Errorf("with the engine hanging: %+v", got)
	}
	daemon.Signal(syscall.SIGCONT)
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("tool --help")), 0)
	wantEmpty(t, e)
}
