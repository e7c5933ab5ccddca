// Package metrics keeps the builder's numbers for Prometheus. docs/metrics.md is the table
// of them, examples/grafana-dashboard.json draws them.
//
// The rooms that count know nothing of Prometheus: they call the methods of Metrics through
// interfaces and functions of their own. Every label has a bounded set of values. Those that
// are known are there from the start, as 0: of a series that begins with its first event,
// Prometheus would not see the event.
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

// namespace is what the names of the builder's own metrics begin with.
const namespace = "iglu_builder"

// Metrics are the numbers of one builder. Its methods are safe for concurrent use.
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

// Build says which program counts.
type Build struct{ Version, Revision, GoVersion string }

// Buckets of histograms, in seconds. A build takes anything between a moment, where all is
// in a cache, and a working day; 6 h is where IGLU_BUILD_TIMEOUT ends it by default. A phase
// may be shorter than a job, and a bucket for each step would cost more than it tells.
var (
	jobBuckets   = []float64{1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 3600, 7200, 14400, 21600}
	phaseBuckets = []float64{0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 21600}
)

// timedPhases are the phases of a job that take time.
var timedPhases = []schemas.Phase{schemas.Wait, schemas.Pull, schemas.Create, schemas.Fetch, schemas.Evaluate, schemas.Build, schemas.PushRest}

// New returns the numbers of a builder that has just started, and may refuse clients for each of the
// reasons, and whose engine may fail at each of the calls; or its nodes' engines, which are told apart then.
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
		Help: "Which program this is; always 1."}, []string{"version", "revision", "goversion"}).
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
			"Jobs that have ended, by how, and whether all that was asked for was done, or the build or the builder failed."), []string{"end", "result"}),
		jobSeconds: made.NewHistogramVec(histogram("job_duration_seconds",
			"Time from a job's acceptance to its end.", jobBuckets), []string{"result"}),
		phases: made.NewHistogramVec(histogram("phase_duration_seconds",
			"Time that a phase of a job took.", phaseBuckets), []string{"phase"}),
		logBytes:    made.NewCounter(counter("log_bytes_total", "Bytes written to the logs of jobs.")),
		logLines:    made.NewCounter(counter("log_lines_total", "Lines written to the logs of jobs.")),
		pushBytes:   made.NewCounter(counter("push_bytes_total", "Bytes that jobs sent to their caches.")),
		pushPaths:   made.NewCounter(counter("push_paths_total", "Store paths that jobs pushed to their caches.")),
		refused:     made.NewCounterVec(counter("refused_connections_total", "Clients whose job was not taken, by why."), []string{"reason"}),
		engineError: made.NewCounterVec(counter("engine_errors_total", "Calls of the container engine that failed, by what they were to do."), callLabels),
	}
	m.fill(refusals)
	return m
}

// fill makes the series that there can be.
func (m *Metrics) fill(refusals []string) {
	if !m.byNode { // else they are there when a node is
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

// Handler serves the numbers.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// JobEnded counts how a job has ended, and what it has taken and done.
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

// LogWritten counts what was added to a job's log.
func (m *Metrics) LogWritten(bytes, lines int64) {
	m.logBytes.Add(float64(bytes))
	m.logLines.Add(float64(lines))
}

// Refused counts a client whose job was not taken, by why.
func (m *Metrics) Refused(reason string) { m.refused.WithLabelValues(reason).Inc() }

// NodeCame makes the series that there can be of a node.
func (m *Metrics) NodeCame(node string) {
	for _, call := range m.calls {
		m.engineErrors(node, call)
	}
}

// EngineFailed counts a call of a node's engine that failed, by what it was to do. node is "" if there is one
// engine.
func (m *Metrics) EngineFailed(node, call string) { m.engineErrors(node, call).Inc() }

func (m *Metrics) engineErrors(node, call string) prometheus.Counter {
	if m.byNode {
		return m.engineError.WithLabelValues(call, node)
	}
	return m.engineError.WithLabelValues(call)
}

// Jobs has the jobs counted that run, and those that wait for their turn, as read returns them when
// somebody asks for the numbers, and how many slots returns that can run at once. Without a call the numbers
// are not there.
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

// Stores has the volumes that keep Nix stores between jobs counted: how many there are, and
// how many bytes they take, as read returns them when somebody asks for the numbers. It must
// not take long. Without a call the numbers are not there.
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

// gauge adds a number that value returns when somebody asks for it.
func (m *Metrics) gauge(name, help string, value func() float64) {
	promauto.With(m.registry).NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, value)
}
