package metrics

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/orchestrator/nodes"
	"iglu.sh/builder/schemas"
)

var (
	refusals = []string{"busy", "malformed"}
	calls    = []string{"pull the job image", "start the container"}
)

// used returns metrics that all have counted something.
func used() *Metrics {
	m := New(Build{Version: "1.2.3", Revision: "abc", GoVersion: "go1.26"}, refusals, calls, false)
	m.Stores(func() (int, int64) { return 2, 5 << 30 })
	m.Jobs(func() (int, int) { return 1, 3 }, func() int { return 4 })
	code := 0
	m.JobEnded(schemas.VerdictEvent{End: "exited", ExitCode: &code, Seconds: 3, Pushed: &schemas.Pushed{Paths: 4, Bytes: 1 << 20},
		Phases: []schemas.PhaseTime{{Phase: schemas.Build, Seconds: 2}}})
	m.JobEnded(schemas.VerdictEvent{End: string(jobend.TimedOut), Seconds: 7 * 3600})
	m.LogWritten(100, 3)
	m.LogWritten(11, 1)
	m.Refused("busy")
	m.EngineFailed("", "start the container")
	return m
}

// ofNodes returns metrics of a builder with nodes: one with a job, one that does not answer, and an address at which no
// node was found.
func ofNodes() *Metrics {
	m := New(Build{}, refusals, calls, true)
	m.Nodes(func() []nodes.State {
		return []nodes.State{
			{Name: "192.0.2.9:2376"},
			{Name: "node-1", Up: true, Slots: 3, Running: 1, Stores: 2, StoreBytes: 5 << 30},
			{Name: "node-2", Slots: 3, Stores: 1, StoreBytes: 7},
		}
	})
	m.NodeCame("node-1")
	m.EngineFailed("node-2", "start the container")
	m.NodeCame("node-3")
	m.NodeGone("node-3")
	return m
}

// TestNodes checks the metrics that have a label for the node.
func TestNodes(t *testing.T) {
	const want = `
# HELP iglu_builder_engine_errors_total Failed calls of the container engine, by call.
# TYPE iglu_builder_engine_errors_total counter
iglu_builder_engine_errors_total{call="pull the job image",node="node-1"} 0
iglu_builder_engine_errors_total{call="start the container",node="node-1"} 0
iglu_builder_engine_errors_total{call="start the container",node="node-2"} 1
# HELP iglu_builder_node_jobs_max Jobs that the node can run at once.
# TYPE iglu_builder_node_jobs_max gauge
iglu_builder_node_jobs_max{node="192.0.2.9:2376"} 0
iglu_builder_node_jobs_max{node="node-1"} 3
iglu_builder_node_jobs_max{node="node-2"} 0
# HELP iglu_builder_node_jobs_running Jobs that are running on the node.
# TYPE iglu_builder_node_jobs_running gauge
iglu_builder_node_jobs_running{node="192.0.2.9:2376"} 0
iglu_builder_node_jobs_running{node="node-1"} 1
iglu_builder_node_jobs_running{node="node-2"} 0
# HELP iglu_builder_node_store_bytes Bytes that these volumes take.
# TYPE iglu_builder_node_store_bytes gauge
iglu_builder_node_store_bytes{node="192.0.2.9:2376"} 0
iglu_builder_node_store_bytes{node="node-1"} 5.36870912e+09
iglu_builder_node_store_bytes{node="node-2"} 7
# HELP iglu_builder_node_store_volumes Volumes of the node that keep a Nix store between jobs.
# TYPE iglu_builder_node_store_volumes gauge
iglu_builder_node_store_volumes{node="192.0.2.9:2376"} 0
iglu_builder_node_store_volumes{node="node-1"} 2
iglu_builder_node_store_volumes{node="node-2"} 1
# HELP iglu_builder_node_up Whether the node's engine can be used.
# TYPE iglu_builder_node_up gauge
iglu_builder_node_up{node="192.0.2.9:2376"} 0
iglu_builder_node_up{node="node-1"} 1
iglu_builder_node_up{node="node-2"} 0
`
	if err := testutil.GatherAndCompare(ofNodes().registry, strings.NewReader(want), "iglu_builder_engine_errors_total", "iglu_builder_node_up",
		"iglu_builder_node_jobs_max", "iglu_builder_node_jobs_running", "iglu_builder_node_store_volumes", "iglu_builder_node_store_bytes"); err != nil {
		t.Error(err)
	}
}

// TestLint checks that names, units and help texts follow Prometheus' conventions, as promtool check metrics does.
func TestLint(t *testing.T) {
	for _, m := range []*Metrics{used(), ofNodes()} {
		problems, err := testutil.GatherAndLint(m.registry)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestValues(t *testing.T) {
	const want = `
# HELP iglu_builder_build_info The version of this program; always 1.
# TYPE iglu_builder_build_info gauge
iglu_builder_build_info{goversion="go1.26",revision="abc",version="1.2.3"} 1
# HELP iglu_builder_jobs_max Jobs that can run at once.
# TYPE iglu_builder_jobs_max gauge
iglu_builder_jobs_max 4
# HELP iglu_builder_jobs_running Jobs that are running.
# TYPE iglu_builder_jobs_running gauge
iglu_builder_jobs_running 1
# HELP iglu_builder_jobs_waiting Jobs that wait for a free slot.
# TYPE iglu_builder_jobs_waiting gauge
iglu_builder_jobs_waiting 3
# HELP iglu_builder_log_bytes_total Bytes written to the logs of jobs.
# TYPE iglu_builder_log_bytes_total counter
iglu_builder_log_bytes_total 111
# HELP iglu_builder_log_lines_total Lines written to the logs of jobs.
# TYPE iglu_builder_log_lines_total counter
iglu_builder_log_lines_total 4
# HELP iglu_builder_push_bytes_total Bytes that jobs sent to their caches.
# TYPE iglu_builder_push_bytes_total counter
iglu_builder_push_bytes_total 1.048576e+06
# HELP iglu_builder_push_paths_total Store paths that jobs pushed to their caches.
# TYPE iglu_builder_push_paths_total counter
iglu_builder_push_paths_total 4
# HELP iglu_builder_refused_connections_total Clients whose job was refused, by reason.
# TYPE iglu_builder_refused_connections_total counter
iglu_builder_refused_connections_total{reason="busy"} 1
iglu_builder_refused_connections_total{reason="malformed"} 0
# HELP iglu_builder_engine_errors_total Failed calls of the container engine, by call.
# TYPE iglu_builder_engine_errors_total counter
iglu_builder_engine_errors_total{call="pull the job image"} 0
iglu_builder_engine_errors_total{call="start the container"} 1
# HELP iglu_builder_store_bytes Bytes that these volumes take.
# TYPE iglu_builder_store_bytes gauge
iglu_builder_store_bytes 5.36870912e+09
# HELP iglu_builder_store_volumes Volumes that keep a Nix store between jobs.
# TYPE iglu_builder_store_volumes gauge
iglu_builder_store_volumes 2
`
	if err := testutil.GatherAndCompare(used().registry, strings.NewReader(want),
		"iglu_builder_build_info", "iglu_builder_jobs_max", "iglu_builder_jobs_running", "iglu_builder_log_bytes_total", "iglu_builder_log_lines_total",
		"iglu_builder_push_bytes_total", "iglu_builder_push_paths_total",
		"iglu_builder_refused_connections_total", "iglu_builder_engine_errors_total",
		"iglu_builder_store_bytes", "iglu_builder_store_volumes"); err != nil {
		t.Error(err)
	}
}

// TestEndsAreThereFromTheStart checks that the series of each end exists from the start, so that Prometheus does not miss
// the first job with that end.
func TestEndsAreThereFromTheStart(t *testing.T) {
	m := New(Build{}, refusals, calls, false)
	if got, want := testutil.CollectAndCount(m.jobs), len(jobend.All)+1; got != want {
		t.Errorf("%d series of jobs, want %d", got, want)
	}
	if got := testutil.CollectAndCount(m.phases); got != len(timedPhases) {
		t.Errorf("%d series of phases, want %d", got, len(timedPhases))
	}
	if got := testutil.CollectAndCount(m.refused); got != len(refusals) {
		t.Errorf("%d series of refusals, want %d", got, len(refusals))
	}
	if got := testutil.CollectAndCount(m.engineError); got != len(calls) {
		t.Errorf("%d series of calls, want %d", got, len(calls))
	}
	if got := testutil.CollectAndCount(m.jobSeconds); got != len(jobend.Results) {
		t.Errorf("%d series of results, want %d", got, len(jobend.Results))
	}
	for end, result := range map[jobend.End]string{jobend.Exited: "failure", jobend.OutOfMemory: "failure", jobend.Cancelled: "failure",
		jobend.NoImage: "error", jobend.EngineGone: "error", jobend.Failed: "error", jobend.Shutdown: "error"} {
		m.JobEnded(schemas.VerdictEvent{End: string(end)})
		if got := testutil.ToFloat64(m.jobs.WithLabelValues(string(end), result)); got != 1 {
			t.Errorf("%s is no %s", end, result)
		}
	}
	m.JobEnded(schemas.VerdictEvent{End: string(jobend.Silent)})
	if got, want := testutil.CollectAndCount(m.jobs), len(jobend.All)+1; got != want {
		t.Errorf("%d series of jobs after one has ended, want %d", got, want)
	}
}

// names returns the names of all metrics. For a histogram, these are the names of its series.
func names(t *testing.T) (series, families []string) {
	t.Helper()
	m := used()
	m.Nodes(func() []nodes.State { return make([]nodes.State, 1) })
	gathered, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range gathered {
		name := family.GetName()
		families = append(families, name)
		if family.GetType().String() == "HISTOGRAM" {
			series = append(series, name+"_bucket", name+"_sum", name+"_count")
		} else {
			series = append(series, name)
		}
	}
	return series, families
}

var metricName = regexp.MustCompile(`\b(iglu_builder|process|go)_[a-z_]+\b`)

// TestDashboard checks that each metric in the dashboard exists, and that each of the builder's own metrics is in the
// dashboard.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../../examples/grafana-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	series, families := names(t)
	drawn := make(map[string]bool)
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			found := metricName.FindAllString(target.Expr, -1)
			if len(found) == 0 {
				t.Errorf("%s draws no metric: %s", panel.Title, target.Expr)
			}
			for _, name := range found {
				if drawn[name] = true; !slices.Contains(series, name) {
					t.Errorf("%s draws %s, which there is not", panel.Title, name)
				}
			}
		}
	}
	for _, family := range families {
		if strings.HasPrefix(family, namespace) && !drawn[family] && !drawn[family+"_bucket"] && !drawn[family+"_sum"] {
			t.Errorf("%s is not drawn", family)
		}
	}
}

// TestDocumentation compares the table of docs/metrics.md with the metrics.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, match := range regexp.MustCompile("(?m)^\\| `(iglu_builder_[a-z_]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, match[1])
	}
	_, families := names(t)
	families = slices.DeleteFunc(families, func(name string) bool { return !strings.HasPrefix(name, namespace) })
	slices.Sort(documented)
	if diff := cmp.Diff(families, documented); diff != "" {
		t.Errorf("docs/metrics.md (-metrics +documented):\n%s", diff)
	}
}
