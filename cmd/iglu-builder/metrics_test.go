package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"iglu.sh/builder/wsapi"
)

// numbers are the values of a server's counters and gauges, and of histograms their counts,
// by what they are called in the text format, as name{label="value"}.
type numbers map[string]float64

// scrape asks a server for its numbers as Prometheus does.
func scrape(t *testing.T, s *server, token string) numbers {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v", response.Status, err)
	}
	found := make(numbers)
	for name, family := range families {
		for _, metric := range family.Metric {
			found[name+labels(metric)] = valueOf(metric)
		}
	}
	return found
}

func labels(m *dto.Metric) string {
	var pairs []string
	for _, label := range m.Label {
		pairs = append(pairs, fmt.Sprintf("%s=%q", label.GetName(), label.GetValue()))
	}
	if len(pairs) == 0 {
		return ""
	}
	return "{" + strings.Join(pairs, ",") + "}"
}

func valueOf(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Histogram != nil:
		return float64(m.Histogram.GetSampleCount())
	default:
		return m.Gauge.GetValue()
	}
}

// wantNumbers checks the values of some, written as the text format has them.
func wantNumbers(t *testing.T, got numbers, want ...string) {
	t.Helper()
	for _, line := range want {
		at := strings.LastIndexByte(line, ' ')
		name := line[:at]
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			t.Fatal(err)
		}
		if found, ok := got[name]; !ok || found != value {
			t.Errorf("%s is %v (there: %v), want %v", name, found, ok, value)
		}
	}
}

// TestMetrics has a server do and refuse all kinds of things, and asks for its numbers.
func TestMetrics(t *testing.T) {
	s := serverWith(t, func(s *settings) {
		s.tokenFile = tokenFile(t, goodToken)
		s.requestTimeout = time.Second
		s.maxRequestBytes = 4096
	})
	bearer := http.Header{"Authorization": {"Bearer " + goodToken}}
	connectAs := func(header http.Header) *client {
		_, c := answerTo(t, s, header)
		return c
	}
	send := func(text string) result {
		c := connectAs(bearer)
		c.send(text)
		return c.finish()
	}
	wantNumbers(t, scrape(t, s, goodToken), `iglu_builder_jobs_total{end="exited",result="success"} 0`,
		`iglu_builder_jobs_running 0`, `iglu_builder_refused_connections_total{reason="busy"} 0`)

	wantExit(t, send(jsonOf(t, command("seq 100"))), 0)
	wantExit(t, send(jsonOf(t, command("sh -c 'exit 3'"))), 3)
	running := connectAs(bearer)
	running.send(jsonOf(t, command("sh -c 'echo begun; read line'")))
	running.waitFor("begun")
	wantNumbers(t, scrape(t, s, goodToken), `iglu_builder_jobs_running 1`)
	connectAs(bearer).finish() // busy
	running.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	running.conn.Close()
	if err := poll(20*time.Second, func() bool { return strings.Contains(s.log.String(), "end=cancelled") }); err != nil {
		t.Fatal(err)
	}
	if err := poll(20*time.Second, func() bool { return len(s.containers()) == 0 }); err != nil {
		t.Fatal(err)
	}

	// What is refused.
	send("{")
	send("{}")
	send(jsonOf(t, command("make all")))
	send(strings.Repeat(" ", 4097))
	connectAs(bearer).finish() // sends nothing
	connectAs(nil)
	connectAs(http.Header{"Authorization": bearer["Authorization"], "Origin": {"https://elsewhere.example"}})

	got := scrape(t, s, goodToken)
	wantNumbers(t, got,
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
	if status, _ := s.get(t, http.MethodGet, "/metrics"); status != http.StatusUnauthorized {
		t.Errorf("without the token /metrics answers %d", status)
	}
	if got["process_resident_memory_bytes"] == 0 || got["go_goroutines"] == 0 {
		t.Error("the numbers of the process or of Go are missing")
	}
}

// wantLogNumbers compares what was counted of the logs with the logs.
func wantLogNumbers(t *testing.T, s *server, got numbers) {
	t.Helper()
	var bytes, lines int
	names, err := filepath.Glob(filepath.Join(world.stateDir, s.instance, "logs", "*.log"))
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
	wantNumbers(t, got, fmt.Sprintf("iglu_builder_log_bytes_total %d", bytes), fmt.Sprintf("iglu_builder_log_lines_total %d", lines))
}

// TestEngineErrorsAreCounted has the engine fail with and without the job.
func TestEngineErrorsAreCounted(t *testing.T) { onEngines(t, engineErrorsAreCounted) }

func engineErrorsAreCounted(t *testing.T, e *site) {
	w := startFaultWorld(t, e)
	f := startFaulty(t, w.socket())
	s := serverVia(t, f.host(), attackOnly)
	fails := func(out http.ResponseWriter, in *http.Request) bool { return f.spoil("500", out, in) }
	f.at(stepAt("start", "POST /containers/.*/start", 1), fails)
	wantFailure(t, do(t, s, command(job3)))
	f.at(stepAt("remove", "DELETE /containers/.*", 1), fails)
	wantExit(t, do(t, s, command(job3)), 3)
	wantNext(t, s) // and removes what the job before has left
	wantNumbers(t, scrape(t, s, ""), `iglu_builder_engine_errors_total{call="start the container"} 1`,
		`iglu_builder_engine_errors_total{call="remove the container"} 1`)
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	w.clean(t, s)
	wantJobIDs(t, s)
}

// ofTheServer are the lines of a server's log that are about no job.
var ofTheServer = []string{"listening", "taking no more jobs", "shutting down", "removed what an earlier run left",
	"job refused", "health check",
	"the container is the sandbox of builds", "builds run in Nix's own sandbox"}

// wantJobIDs checks that every other line has the id of its job.
func wantJobIDs(t *testing.T, s *server) {
	t.Helper()
	withJob := 0
	for lines := bufio.NewScanner(strings.NewReader(s.log.String())); lines.Scan(); {
		line := lines.Text()
		isServers := slices.ContainsFunc(ofTheServer, func(msg string) bool {
			return strings.Contains(line, "msg="+msg+" ") || strings.Contains(line, `msg="`+msg)
		})
		hasJob := strings.Contains(line, " job=")
		if hasJob {
			withJob++
		}
		if !hasJob && !isServers {
			t.Errorf("has no job: %s", line)
		}
	}
	if withJob < 5 {
		t.Errorf("only %d lines are about jobs:\n%s", withJob, s.log.String())
	}
}

// TestVersion runs the subcommand.
func TestVersion(t *testing.T) {
	var stdout strings.Builder
	if code := run(t.Context(), []string{"version"}, nil, &stdout, io.Discard); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if fields := strings.Fields(stdout.String()); len(fields) < 3 || fields[0] != "iglu-builder" || !strings.HasPrefix(fields[len(fields)-1], "go1.") {
		t.Errorf("%q", &stdout)
	}
}
