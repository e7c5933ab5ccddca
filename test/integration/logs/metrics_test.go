//go:build integration

package logs

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
	"iglu.sh/builder/wsapi"
)

// TestMetrics sends a server accepted and refused requests of all kinds, and checks its metrics.
func TestMetrics(t *testing.T) {
	s := fixture.ServerWith(t, func(s *server.Settings) {
		s.TokenFile = fixture.TokenFile(t, fixture.GoodToken)
		s.RequestTimeout = time.Second
		s.MaxRequestBytes = 4096
	})
	bearer := http.Header{"Authorization": {"Bearer " + fixture.GoodToken}}
	connectAs := func(header http.Header) *fixture.Client {
		_, c := fixture.AnswerTo(t, s, header)
		return c
	}
	send := func(text string) fixture.Result {
		c := connectAs(bearer)
		c.Send(text)
		return c.Finish()
	}
	fixture.WantNumbers(t, fixture.Scrape(t, s, fixture.GoodToken), `iglu_builder_jobs_total{end="exited",result="success"} 0`,
		`iglu_builder_jobs_running 0`, `iglu_builder_refused_connections_total{reason="busy"} 0`)

	fixture.WantExit(t, send(fixture.JSONOf(t, fixture.Command("seq 100"))), 0)
	fixture.WantExit(t, send(fixture.JSONOf(t, fixture.Command("sh -c 'exit 3'"))), 3)

	// Refused requests.
	send("{")
	send("{}")
	send(fixture.JSONOf(t, fixture.Command("make all")))
	send(strings.Repeat(" ", 4097))
	connectAs(bearer).Finish() // sends nothing
	connectAs(nil)
	connectAs(http.Header{"Authorization": bearer["Authorization"], "Origin": {"https://elsewhere.example"}})

	// A job that is cancelled. Its slot is free only some time after its container is gone, so it is the last.
	running := connectAs(bearer)
	running.Send(fixture.JSONOf(t, fixture.Command("sh -c 'echo begun; sleep 1000'")))
	running.WaitFor(`"begun"`)
	fixture.WantNumbers(t, fixture.Scrape(t, s, fixture.GoodToken), `iglu_builder_jobs_running 1`)
	connectAs(bearer).Finish() // busy
	running.Conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	running.Conn.Close()
	if err := s.Log.Await(20*time.Second, func(text string) bool { return strings.Contains(text, "end=cancelled") }); err != nil {
		t.Fatal(err)
	}
	fixture.WantNoContainers(t, s)

	got := fixture.Scrape(t, s, fixture.GoodToken)
	fixture.WantNumbers(t, got,
		`iglu_builder_jobs_total{end="exited",result="success"} 1`,
		`iglu_builder_jobs_total{end="exited",result="failure"} 1`,
		`iglu_builder_jobs_total{end="cancelled",result="failure"} 1`,
		`iglu_builder_jobs_running 0`,
		`iglu_builder_job_duration_seconds{result="success"} 1`,
		`iglu_builder_job_duration_seconds{result="failure"} 2`,
		`iglu_builder_phase_duration_seconds{phase="create"} 3`,
		`iglu_builder_phase_duration_seconds{phase="fetch"} 0`,
		`iglu_builder_refused_connections_total{reason="busy"} 1`,
		`iglu_builder_refused_connections_total{reason="malformed"} 1`,
		`iglu_builder_refused_connections_total{reason="invalid"} 1`,
		`iglu_builder_refused_connections_total{reason="command"} 1`,
		`iglu_builder_refused_connections_total{reason="too-large"} 1`,
		`iglu_builder_refused_connections_total{reason="no-job"} 1`,
		`iglu_builder_refused_connections_total{reason="unauthorized"} 1`,
		`iglu_builder_refused_connections_total{reason="origin"} 1`,
		`iglu_builder_refused_connections_total{reason="draining"} 0`,
	)
	for name := range got {
		reason, ok := strings.CutPrefix(name, `iglu_builder_refused_connections_total{reason="`)
		if ok && !slices.Contains(wsapi.Refusals, strings.TrimSuffix(reason, `"}`)) {
			t.Errorf("%s is not one of wsapi.Refusals", name)
		}
	}
	wantLogNumbers(t, s, got)
	if status, _ := s.Get(t, http.MethodGet, "/metrics"); status != http.StatusUnauthorized {
		t.Errorf("without the token /metrics answers %d", status)
	}
	if got["process_resident_memory_bytes"] == 0 || got["go_goroutines"] == 0 {
		t.Error("the metrics of the process or of Go are missing")
	}
}

// wantLogNumbers compares the metrics of the logs with the logs.
func wantLogNumbers(t *testing.T, s *fixture.Server, got fixture.Numbers) {
	t.Helper()
	var bytes, lines int
	names, err := filepath.Glob(filepath.Join(fixture.Env.StateDir, s.Instance, "logs", "*.log"))
	if err != nil || len(names) != 3 {
		t.Fatalf("logs %v, %v", names, err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		bytes += len(text)
		lines += strings.Count(string(text), "\n")
	}
	fixture.WantNumbers(t, got, fmt.Sprintf("iglu_builder_log_bytes_total %d", bytes), fmt.Sprintf("iglu_builder_log_lines_total %d", lines))
}
