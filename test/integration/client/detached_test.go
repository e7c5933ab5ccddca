//go:build integration

package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/test/kit/await"
	"iglu.sh/builder/test/kit/fixture"
)

// A shell runs commands of iglu-builder for a server.
type shell struct {
	t       *testing.T
	address string
}

func (s shell) run(command string, stdin string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	args = append([]string{command, "--url", s.address}, args...)
	code = fixture.RunProgram(s.t.Context(), args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

// detach sends a detached job and returns its id.
func (s shell) detach(line string) string {
	s.t.Helper()
	code, stdout, stderr := s.run("build", fixture.JSONOf(s.t, fixture.Command(line)), "--detach", "-")
	if code != 0 || stderr != "" {
		s.t.Fatalf("exit code %d, %s", code, stderr)
	}
	return strings.TrimSpace(stdout)
}

// awaitLine watches a job until it prints a line.
func (s shell) awaitLine(job, line string) {
	s.t.Helper()
	var log await.Log
	ctx, stop := context.WithCancel(s.t.Context())
	watched := make(chan int)
	go func() {
		watched <- fixture.RunProgram(ctx, []string{"watch", "--url", s.address, job}, nil, &log, &log)
	}()
	if err := log.Await(time.Minute, func(text string) bool { return strings.Contains(text, "\n"+line+"\n") }); err != nil {
		s.t.Error(err)
	}
	stop()
	<-watched
}

// TestDetached sends detached jobs to a builder with one slot and a queue of two. The first is watched while it
// runs, and again after its end. The second is cancelled in the queue. A fourth is refused, because the queue
// is full. After the builder has stopped, each job has its verdict.
func TestDetached(t *testing.T) {
	folder := t.TempDir()
	instance := "test-detached-" + strings.ToLower(rand.Text()[:10])
	s := fixture.StartProcessIn(t, instance, folder, "", "--job-image", fixture.Env.Image, "--allowed-commands", "sh",
		"--max-queued", "2", "--shutdown-grace", "1s")
	builder := shell{t, s.Address}
	first := builder.detach("sh -c 'echo one; while [ ! -e /tmp/go-on ]; do sleep 0.1; done; echo two; exit 7'")
	builder.awaitLine(first, "one")
	second, third := builder.detach("sh -c 'echo second'"), builder.detach("sh -c 'echo third; sleep 1000'")
	if code, _, stderr := builder.run("build", fixture.JSONOf(t, fixture.Command("sh -c true")), "--detach", "-"); code != 125 || !strings.Contains(stderr, "A build job is already running.") {
		t.Errorf("a fourth job: exit code %d, %s", code, stderr)
	}

	watched := make(chan string)
	go func() {
		code, stdout, _ := builder.run("watch", "", first)
		if code != 7 {
			t.Errorf("watch: exit code %d", code)
		}
		watched <- stdout
	}()
	if code, _, stderr := builder.run("cancel", "", second); code != 0 {
		t.Errorf("cancel: exit code %d, %s", code, stderr)
	}
	fixture.GoOn(t, s)
	log := <-watched
	if !strings.Contains(log, "\none\ntwo\niglu: failed: ") {
		t.Errorf("watched: %s", log)
	}
	if code, again, _ := builder.run("watch", "", first); code != 7 || again != log {
		t.Errorf("watched after its end: exit code %d, %s", code, again)
	}
	code, stdout, stderr := builder.run("watch", "", second)
	if code != 125 || !strings.Contains(stdout, "iglu: waiting for a free slot, no job ahead\n") ||
		!strings.HasSuffix(stderr, "The job was cancelled. Somebody cancelled it, on the page or with 'iglu-builder cancel'.\n") {
		t.Errorf("the second job: exit code %d\n%s\n%s", code, stdout, stderr)
	}
	if code, _, stderr := builder.run("cancel", "", second); code != 125 || !strings.HasSuffix(stderr, "refuses: The job is not running any more.\n") {
		t.Errorf("cancelled twice: exit code %d, %s", code, stderr)
	}
	builder.awaitLine(third, "third")
	fourth := builder.detach("sh -c true")
	if !recordOf(t, s, fourth).Waits() {
		t.Errorf("the fourth job does not wait: %+v", recordOf(t, s, fourth))
	}
	s.Cancel()
	if err := <-s.Ended; err != nil {
		t.Error(err)
	}
	s.Ended <- nil
	records, err := history.Open(filepath.Join(folder, instance, "history.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer records.Close()
	for job, want := range map[string]jobend.End{first: jobend.Exited, second: jobend.Cancelled, third: jobend.Shutdown, fourth: jobend.Shutdown} {
		if r, err := records.Get(job); err != nil || r.End != want {
			t.Errorf("%v, %+v, want %s", err, r, want)
		}
	}
}

func recordOf(t *testing.T, s *fixture.Server, job string) (r history.Record) {
	t.Helper()
	_, text := s.Get(t, "GET", "/api/v1/jobs/"+job)
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return r
}
