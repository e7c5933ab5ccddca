package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
)

// TestHistorySurvives has a builder end a job, kills it in the middle of another, and asks its
// next life for both, and for the log of the one that was lost.
func TestHistorySurvives(t *testing.T) {
	flags := []string{"--job-image", world.image, "--allowed-commands", "sh", "--state-dir", t.TempDir()}
	s := startProcessAs(t, "test-history", "", flags...)
	wantExit(t, do(t, s, command("sh -c 'echo kept; exit 3'")), 3)
	c := connect(t, s)
	c.send(jsonOf(t, command("sh -c 'echo half; sleep 1000'")))
	c.waitFor(`"half"`)
	lost := newestJob(t, s)
	_, before := s.get(t, "GET", "/api/v1/jobs/"+lost)
	if strings.Contains(before, `"end"`) {
		t.Errorf("while it runs, the record is %s", before)
	}
	s.kill()

	next := startProcessAs(t, "test-history", "", flags...)
	_, after := next.get(t, "GET", "/api/v1/jobs")
	if !strings.Contains(after, `"end":"exited","exitCode":3`) || !strings.Contains(after, `"end":"interrupted"`) {
		t.Errorf("the jobs are %s", after)
	}
	if _, log := next.get(t, "GET", "/api/v1/jobs/"+lost+"/log?follow=1"); !strings.HasSuffix(log, "\nhalf\n") {
		t.Errorf("the log of the lost one is %q", log)
	}
	if _, page := next.get(t, "GET", "/jobs/"+lost); !strings.Contains(page, "interrupted") {
		t.Errorf("its page is %s", page)
	}
}

// TestHistoryGoesWithLogs keeps two logs, and so two records.
func TestHistoryGoesWithLogs(t *testing.T) {
	s := serverWith(t, func(s *settings) { s.keepLogs.Jobs = 2 })
	for range 4 {
		wantExit(t, do(t, s, command("sh -c true")), 0)
	}
	_, body := s.get(t, "GET", "/api/v1/jobs")
	if n := strings.Count(body, `"id"`); n != 2 {
		t.Errorf("%d records are left: %s", n, body)
	}
}

// TestHistoryDamaged starts a builder on a file that is no history.
func TestHistoryDamaged(t *testing.T) {
	folder := t.TempDir()
	name := filepath.Join(folder, "damaged", "history.db")
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(strings.Repeat("no history", 10_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	output, err := exec.Command(world.program, "serve", "--listen", "127.0.0.1:0", "--instance", "damaged", "--state-dir", folder).CombinedOutput()
	if err == nil || !strings.Contains(string(output), name+" is damaged") || !strings.Contains(string(output), "hint: move the file away") {
		t.Errorf("%v: %s", err, output)
	}
}

// TestCancelByAPI cancels a job: its client is told who did it.
func TestCancelByAPI(t *testing.T) {
	s := serverWith(t, func(*settings) {})
	c := connect(t, s)
	c.send(jsonOf(t, command("sh -c 'echo begun; sleep 1000'")))
	c.waitFor(`"begun"`)
	path := "/api/v1/jobs/" + newestJob(t, s) + "/cancel"
	if status, body := s.get(t, "POST", path); status != 202 {
		t.Fatalf("status %d: %s", status, body)
	}
	r := c.finish()
	const want = `{"error":"The job was cancelled.","msg":"Somebody cancelled it on the builder's page.","jobStatus":"failed"}`
	if len(r.messages) != 1 || r.messages[0] != want || r.closeCode != websocket.CloseInternalServerErr {
		t.Errorf("got %v, close code %d", r.messages, r.closeCode)
	}
	if status, _ := s.get(t, "POST", path); status != 409 {
		t.Errorf("once more: status %d", status)
	}
}
