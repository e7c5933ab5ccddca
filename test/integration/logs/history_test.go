//go:build integration

package logs

import (
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestHistorySurvives kills a builder during its second job. After a restart, both jobs are in the history, and
// the log of the lost job is available.
func TestHistorySurvives(t *testing.T) {
	flags := []string{"--job-image", fixture.Env.Image, "--allowed-commands", "sh", "--state-dir", t.TempDir()}
	s := fixture.StartProcessAs(t, "test-history", "", flags...)
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("sh -c 'echo kept; exit 3'")), 3)
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command("sh -c 'echo half; sleep 1000'")))
	c.WaitFor(`"half"`)
	lost := fixture.NewestJob(t, s)
	_, before := s.Get(t, "GET", "/api/v1/jobs/"+lost)
	if strings.Contains(before, `"end"`) {
		t.Errorf("while it runs, the record is %s", before)
	}
	container := s.JobContainer(t)
	s.Kill()

	next := fixture.StartProcessAs(t, "test-history", "", flags...)
	_, after := next.Get(t, "GET", "/api/v1/jobs")
	if !strings.Contains(after, `"end":"exited","exitCode":3`) || !strings.Contains(after, `"end":"interrupted"`) {
		t.Errorf("the jobs are %s", after)
	}
	if _, log := next.Get(t, "GET", "/api/v1/jobs/"+lost+"/log?follow=1"); !strings.HasSuffix(log, "\nhalf\n") {
		t.Errorf("the log of the lost one is %q", log)
	}
	if _, page := next.Get(t, "GET", "/jobs/"+lost); !strings.Contains(page, "interrupted") {
		t.Errorf("its page is %s", page)
	}
	fixture.Docker(t, "rm", "--force", container) // the builder does that later: see TestBuilderKilled
}

// TestCancelByAPI cancels a job. The message to its client says who cancelled it.
func TestCancelByAPI(t *testing.T) {
	s := fixture.ServerWith(t, func(*server.Settings) {})
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command("sh -c 'echo begun; sleep 1000'")))
	c.WaitFor(`"begun"`)
	path := "/api/v1/jobs/" + fixture.NewestJob(t, s) + "/cancel"
	if status, body := s.Get(t, "POST", path); status != 202 {
		t.Fatalf("status %d: %s", status, body)
	}
	r := c.Finish()
	const want = `{"error":"The job was cancelled.","msg":"Somebody cancelled it, on the page or with 'iglu-builder cancel'.","jobStatus":"failed"}`
	if len(r.Messages) != 1 || r.Messages[0] != want || r.CloseCode != websocket.CloseInternalServerErr {
		t.Errorf("got %v, close code %d", r.Messages, r.CloseCode)
	}
	if status, _ := s.Get(t, "POST", path); status != 409 {
		t.Errorf("once more: status %d", status)
	}
}
