// Package web serves the builder's web page and the HTTP API that the page uses: running and ended jobs, their
// logs and events. It only reads, except that it can cancel a job. Jobs are sent through package wsapi, from
// the page too.
//
// A Server does not authenticate clients: its caller must let in only clients that may see all jobs.
package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"log/slog"
	"net/http"
	"path"
	"sync"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/orchestrator/nodes"
)

// Records are the stored records of jobs.
type Records interface {
	// Find returns up to limit records that match, the newest first: of all jobs, or of those that began
	// before a given job. It returns history.ErrNotFound if that job is unknown. Requests, results and verdicts
	// are missing.
	Find(before string, limit int, match func(history.Record) bool) ([]history.Record, error)
	// Get returns a job's whole record, or history.ErrNotFound.
	Get(job string) (history.Record, error)
}

// Logs are the stored logs of jobs.
type Logs interface {
	// Reader returns a reader of a job's log, or fs.ErrNotExist.
	Reader(job string) (*joblog.Reader, error)
}

// Jobs are the running jobs and the nodes for them.
type Jobs interface {
	// Cancel ends a job if it runs. The reason is that somebody cancelled it on the page.
	Cancel(job string) (runs bool)
	// Nodes returns the nodes of the builder; nil if it uses one engine.
	Nodes() []nodes.State
}

// Options are the settings of a Server.
type Options struct {
	// Commands are the programs that a job may run.
	Commands []string
	// ClientTimeout is the time after which a watcher that accepts no data counts as disconnected.
	ClientTimeout time.Duration
	// Token is true if clients need a token.
	Token bool
}

// A Server serves the page and the API. It is an http.Handler.
type Server struct {
	records Records
	logs    Logs
	jobs    Jobs
	options Options
	log     *slog.Logger
	mux     *http.ServeMux

	watchers *watchers
	searches chan struct{} // has an item for each
	waiting  chan struct{} // has an item for each request that waits for its search
}

// New returns a server.
func New(records Records, logs Logs, jobs Jobs, options Options, log *slog.Logger) *Server {
	s := &Server{
		records: records, logs: logs, jobs: jobs, options: options, log: log,
		mux:      http.NewServeMux(),
		watchers: newWatchers(options.ClientTimeout),
		searches: make(chan struct{}, maxSearches),
		waiting:  make(chan struct{}, maxWaiting),
	}
	for pattern, handle := range map[string]http.HandlerFunc{
		"GET /{$}":                          s.serveHome,
		"GET /new":                          s.serveNew,
		"GET /jobs/{id}":                    s.serveJob,
		"GET /login":                        s.serveLogin,
		"GET /assets/{name}":                serveAsset,
		"GET /api/v1/badge":                 s.serveBadge,
		"GET /api/v1/jobs":                  s.serveRecords,
		"GET /api/v1/nodes":                 s.serveNodes,
		"GET /api/v1/jobs/{id}":             s.serveRecord,
		"GET /api/v1/jobs/{id}/log":         s.serveLog,
		"GET /api/v1/jobs/{id}/lines":       s.serveLines,
		"GET /api/v1/jobs/{id}/search":      s.serveSearch,
		"GET /api/v1/jobs/{id}/events":      s.serveEvents,
		"POST /api/v1/jobs/{id}/cancel":     s.serveCancel,
		"GET /api/v1/jobs/{id}/derivations": s.serveDerivations,
		"GET /api/v1/jobs/{id}/derivations/{derivation}/log": s.serveDerivationLog,
		"GET /": s.serveNothing,
	} {
		s.mux.HandleFunc(pattern, handle)
	}
	return s
}

// policy is the Content-Security-Policy: the page loads only files of the builder, runs no inline scripts, and
// cannot be in a frame.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// ServeHTTP serves one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "same-origin") // without a referrer, a browser sends no origin either
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cache-Control", "no-cache")
	s.mux.ServeHTTP(w, r)
}

// Close ends the requests of all watchers, so that an http.Server does not wait for them.
func (s *Server) Close() { s.watchers.close() }

//go:embed assets
var files embed.FS

// assets are the files that pages load, each with a digest, by which a browser knows whether its copy is
// current.
var assets = sync.OnceValue(func() map[string]asset {
	all := make(map[string]asset)
	entries, err := files.ReadDir("assets")
	if err != nil {
		panic(err)
	}
	for _, entry := range entries {
		text, err := fs.ReadFile(files, path.Join("assets", entry.Name()))
		if err != nil {
			panic(err)
		}
		digest := sha256.Sum256(text)
		all[entry.Name()] = asset{text, `"` + hex.EncodeToString(digest[:8]) + `"`}
	}
	return all
})

type asset struct {
	text []byte
	tag  string
}

// assetTypes are the media types of assets. The table of the machine may differ.
var assetTypes = map[string]string{
	".css": "text/css; charset=utf-8",
	".js":  "text/javascript; charset=utf-8",
	".svg": "image/svg+xml",
}

func serveAsset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	asset, ok := assets()[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", assetTypes[path.Ext(name)])
	w.Header().Set("ETag", asset.tag)
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(asset.text))
}
