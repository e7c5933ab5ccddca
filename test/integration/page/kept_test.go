//go:build integration

package page

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/web"
	"iglu.sh/builder/orchestrator/nodes"
	"iglu.sh/builder/schemas"
)

// kept is a server with jobs that a test makes up, because an engine would be too slow or could not produce them.
// The pages and their HTTP server are the real ones.
type kept struct {
	url     string
	folder  string // of the logs
	t       *testing.T
	records *history.History
	logs    *joblog.Store
	builder builder
	refusal schemas.Response // the answer to every job from the form
	pages   http.Handler
	answer  func(w http.ResponseWriter) // the same, if it is no refusal
}

// A builder runs no jobs. Its nodes are set by a test.
type builder struct {
	mu    sync.Mutex
	nodes []nodes.State
}

func (b *builder) Cancel(string) bool { return false }

func (b *builder) Nodes() []nodes.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.nodes)
}

func (b *builder) set(all ...nodes.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes = all
}

// serveKept serves pages without jobs. The test adds jobs later.
func serveKept(t *testing.T) *kept {
	t.Helper()
	folder := t.TempDir()
	logs, err := joblog.Open(filepath.Join(folder, "logs"), joblog.Keep{Jobs: 1000}, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	records, err := history.Open(filepath.Join(folder, "history.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { records.Close() })
	k := &kept{t: t, folder: filepath.Join(folder, "logs"), records: records, logs: logs}
	pages := web.New(records, logs, &k.builder, web.Options{Commands: []string{"nix"}, ClientTimeout: time.Minute}, slog.New(slog.DiscardHandler))
	k.pages = pages
	mux := http.NewServeMux()
	mux.Handle("/", pages)
	mux.HandleFunc("POST /api/v1/jobs", k.refuse)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	t.Cleanup(pages.Close)
	k.url = server.URL
	return k
}

// refuse answers a job with the refusal, as a builder does.
func (k *kept) refuse(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	if k.answer != nil {
		k.answer(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if k.refusal == schemas.Busy() {
		w.WriteHeader(http.StatusTooManyRequests)
	} else {
		w.WriteHeader(http.StatusBadRequest)
	}
	w.Write(k.refusal.Encode())
}

// begin adds a running job and returns its log.
func (k *kept) begin(r history.Record) *joblog.Log {
	k.t.Helper()
	if r.Begun.IsZero() {
		r.Begun = time.Now().Add(-time.Minute)
	}
	if err := k.records.Put(r); err != nil {
		k.t.Fatal(err)
	}
	log, err := k.logs.Create(r.Job, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	log.Respond(schemas.Accepted(), schemas.JobEvent{ID: r.Job})
	return log
}

// end ends the job of a log.
func (k *kept) end(log *joblog.Log, r history.Record, response schemas.Response) {
	k.t.Helper()
	if r.Begun.IsZero() {
		r.Begun = time.Now().Add(-time.Minute)
	}
	if r.Ended.IsZero() {
		r.Ended = r.Begun.Add(42 * time.Second)
	}
	r.Error, r.Msg, r.ExitCode = response.Error, response.Msg, response.BuildExitCode
	if r.End == "" {
		r.End = jobend.Exited
	}
	if err := k.records.Put(r); err != nil {
		k.t.Fatal(err)
	}
	log.Respond(response, schemas.VerdictEvent{End: string(r.End), Reason: r.Reason, ExitCode: r.ExitCode, Seconds: r.Ended.Sub(r.Begun).Seconds(), PeakMemory: 700 << 20, CPUSeconds: 61,
		Phases: []schemas.PhaseTime{{Phase: schemas.Create, Seconds: 0.4}, {Phase: schemas.Fetch, Seconds: 2}, {Phase: schemas.Evaluate, Seconds: 7.1}, {Phase: schemas.Build, Seconds: 32}}})
	log.Complete()
	if err := log.Close(); err != nil {
		k.t.Fatal(err)
	}
}
