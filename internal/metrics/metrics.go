// Package metrics has the builder's metrics for Prometheus. docs/metrics.md lists them, and
// examples/grafana-dashboard.json shows them as graphs.
//
// The packages that count do not depend on Prometheus: they call the methods of Metrics through their own
// interfaces and functions. Every label has a bounded set of values. The series of all known values exist
// from the start, with the value 0: if a series began with its first event, Prometheus would miss that event.
package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/schemas"
)

// namespace is the prefix of the names of the builder's own metrics.
const namespace = "iglu_builder"

// Metrics are the metrics of one builder. Its methods are safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry

	jobs        *prometheus.CounterVec // by end, result
	jobSeconds  *prometheus.HistogramVec
	phases      *prometheus.HistogramVec
	logBytes    prometheus.Counter
	logLines    prometheus.Counter
	pushBytes   prometheus.Counter
	pushPaths   prometheus.Counter
	refused     *prometheus.CounterVec // by reason
	engineError *prometheus.CounterVec // by call, and by node if there are several
	calls       []string
	byNode      bool
}

// Build identifies the program, for the metric build_info.
type Build struct{ Version, Revision, GoVersion string }

// Buckets of histograms, in seconds. A build takes from less than a second, if everything is in a cache, to
// hours; IGLU_BUILD_TIMEOUT is 6 h by default. Phases may be shorter than jobs. They have fewer buckets,
// because each bucket is one more series for each phase.
var (
	jobBuckets   = []float64{1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 3600, 7200, 14400, 21600}
	phaseBuckets = []float64{0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 21600}
)

// timedPhases are the phases of a job that take time.
var timedPhases = []schemas.Phase{schemas.Wait, schemas.Pull, schemas.Create, schemas.Fetch, schemas.Evaluate, schemas.Build, schemas.PushRest}

// New returns the metrics of a builder that has just started. refusals are the reasons for which it can refuse
// a client, and calls are the calls of the engine that can fail. With byNode, it counts failed calls for each
// node of a cluster.
func New(build Build, refusals, calls []string, byNode bool) *Metrics {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	made := promauto.With(registry)
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}
	}
	histogram := func(name, help string, buckets []float64) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}
	}
	made.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: "build_info",
		Help: "The version of this program; always 1."}, []string{"version", "revision", "goversion"}).
		WithLabelValues(build.Version, build.Revision, build.GoVersion).Set(1)
	callLabels := []string{"call"}
	if byNode {
		callLabels = append(callLabels, "node")
	}
	m := &Metrics{
		registry: registry,
		calls:    calls,
		byNode:   byNode,
		jobs: made.NewCounterVec(counter("jobs_total",
			"Jobs that have ended, by the kind of end and by the result."), []string{"end", "result"}),
		jobSeconds: made.NewHistogramVec(histogram("job_duration_seconds",
			"Time from a job's acceptance to its end.", jobBuckets), []string{"result"}),
		phases: made.NewHistogramVec(histogram("phase_duration_seconds",
			"Time that a phase of a job took, by phase.", phaseBuckets), []string{"phase"}),
		logBytes:    made.NewCounter(counter("log_bytes_total", "Bytes written to the logs of jobs.")),
		logLines:    made.NewCounter(counter("log_lines_total", "Lines written to the logs of jobs.")),
		pushBytes:   made.NewCounter(counter("push_bytes_total", "Bytes that jobs sent to their caches.")),
		pushPaths:   made.NewCounter(counter("push_paths_total", "Store paths that jobs pushed to their caches.")),
		refused:     made.NewCounterVec(counter("refused_connections_total", "Clients whose job was refused, by reason."), []string{"reason"}),
		engineError: made.NewCounterVec(counter("engine_errors_total", "Failed calls of the container engine, by call."), callLabels),
	}
	m.fill(refusals)
	return m
}

// fill creates the series of all known values.
func (m *Metrics) fill(refusals []string) {
	if !m.byNode { // else NodeCame is called for each node
		m.NodeCame("")
	}
	m.jobs.WithLabelValues(string(jobend.Exited), string(jobend.Success))
	for _, end := range jobend.All {
		m.jobs.WithLabelValues(string(end), string(end.Result(1)))
	}
	for _, result := range jobend.Results {
		m.jobSeconds.WithLabelValues(string(result))
	}
	for _, phase := range timedPhases {
		m.phases.WithLabelValues(string(phase))
	}
	for _, reason := range refusals {
		m.refused.WithLabelValues(reason)
	}
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// JobEnded counts a job that has ended, its times, and what it pushed.
func (m *Metrics) JobEnded(v schemas.VerdictEvent) {
	code := 1
	if v.ExitCode != nil {
		code = *v.ExitCode
	}
	result := string(jobend.End(v.End).Result(code))
	m.jobs.WithLabelValues(v.End, result).Inc()
	m.jobSeconds.WithLabelValues(result).Observe(v.Seconds)
	for _, p := range v.Phases {
		m.phases.WithLabelValues(string(p.Phase)).Observe(p.Seconds)
	}
	if v.Pushed != nil {
		m.pushBytes.Add(float64(v.Pushed.Bytes))
		m.pushPaths.Add(float64(v.Pushed.Paths))
	}
}

// LogWritten counts what was written to a job's log.
func (m *Metrics) LogWritten(bytes, lines int64) {
	m.logBytes.Add(float64(bytes))
	m.logLines.Add(float64(lines))
}

// Refused counts a client whose job was refused, by the reason.
func (m *Metrics) Refused(reason string) { m.refused.WithLabelValues(reason).Inc() }

// NodeCame creates the series of a node.
func (m *Metrics) NodeCame(node string) {
	for _, call := range m.calls {
		m.engineErrors(node, call)
	}
}

// NodeGone removes the series of a node. Otherwise a cluster whose machines change would have more and more of them.
func (m *Metrics) NodeGone(node string) {
	m.engineError.DeletePartialMatch(prometheus.Labels{"node": node})
}

// EngineFailed counts a failed call of a node's engine. call is one of the calls that New got. node is ""
// without a cluster.
func (m *Metrics) EngineFailed(node, call string) { m.engineErrors(node, call).Inc() }

func (m *Metrics) engineErrors(node, call string) prometheus.Counter {
	if m.byNode {
		return m.engineError.WithLabelValues(call, node)
	}
	return m.engineError.WithLabelValues(call)
}

// Jobs adds the metrics of running and waiting jobs. read returns their numbers, and slots returns how many
// jobs can run at once. Both are called whenever the metrics are requested.
func (m *Metrics) Jobs(read func() (running, waiting int), slots func() int) {
	m.gauge("jobs_max", "Jobs that can run at once.", func() float64 { return float64(slots()) })
	m.gauge("jobs_running", "Jobs that are running.", func() float64 {
		running, _ := read()
		return float64(running)
	})
	m.gauge("jobs_waiting", "Jobs that wait for a free slot.", func() float64 {
		_, waiting := read()
		return float64(waiting)
	})
}

// Stores adds the metrics of the volumes that keep Nix stores between jobs. read returns how many there are, and
// how many bytes they take. It is called whenever the metrics are requested, and must return quickly.
func (m *Metrics) Stores(read func() (volumes int, bytes int64)) {
	m.gauge("store_volumes", "Volumes that keep a Nix store between jobs.", func() float64 {
		volumes, _ := read()
		return float64(volumes)
	})
	m.gauge("store_bytes", "Bytes that these volumes take.", func() float64 {
		_, bytes := read()
		return float64(bytes)
	})
}

// gauge adds a metric. value is called whenever the metrics are requested.
func (m *Metrics) gauge(name, help string, value func() float64) {
	promauto.With(m.registry).NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, value)
}
