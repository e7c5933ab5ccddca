package web

import (
	"bytes"
	"embed"
	"errors"
	"html/template"
	"net/http"
	"strings"
	"sync"

	"iglu.sh/builder/internal/history"
)

//go:embed templates
var templateFiles embed.FS

// templates are parsed at the first request, because jobs and clients start the same program.
var templates = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("").Funcs(template.FuncMap{
		"args": func(args ...any) []any { return args },
	}).ParseFS(templateFiles, "templates/*.html"))
})

// page is the data for the template of every page.
type page struct {
	Title   string
	Root    string  // the relative address of the builder: a proxy may have the page below a path of its own
	Here    string  // the current one of the pages in the navigation
	State   jobView // the job whose state the icon shows; empty: none
	SignOut bool
	Address string    // of the builder, from the request
	Running []jobView // running and waiting jobs, the oldest first
	Waiting bool      // a job is waiting
	Job     jobView
	Jobs    []jobView
	List    list
	Nodes   nodesView // nil: not shown
	// Commands are the programs that a job may run.
	Commands []string
	// Next is the page after signing in. Wrong is true after a wrong token.
	Next  string
	Wrong bool
	// Text is the text of the page for addresses that do not exist.
	Text string
}

func (s *Server) render(w http.ResponseWriter, r *http.Request, name string, status int, p page) {
	p.Root, p.SignOut, p.Address = rootOf(r), s.options.Token, addressOf(r)
	var text bytes.Buffer // buffered, so that an error does not leave half a page
	if err := templates().ExecuteTemplate(&text, name, p); err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	s.send(w, status, text.Bytes())
}

// rootOf returns the address of the builder relative to that of a request.
func rootOf(r *http.Request) string {
	return "./" + strings.Repeat("../", max(0, strings.Count(r.URL.EscapedPath(), "/")-1))
}

// addressOf returns the builder's address for clients. A proxy may use TLS for the builder.
func addressOf(r *http.Request) string {
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		return "wss://" + r.Host
	}
	return "ws://" + r.Host
}

func (s *Server) serveJob(w http.ResponseWriter, r *http.Request) {
	record, err := s.records.Get(r.PathValue("id"))
	if errors.Is(err, history.ErrNotFound) {
		s.serveNothing(w, r)
		return
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.render(w, r, "page", http.StatusOK, page{Title: jobView{record}.Title(), State: jobView{record}, Job: jobView{record}})
}

func (s *Server) serveNew(w http.ResponseWriter, r *http.Request) {
	s.render(w, r, "new", http.StatusOK, page{Title: "New job", Here: "new", Commands: s.options.Commands})
}

func (s *Server) serveLogin(w http.ResponseWriter, r *http.Request) {
	status, query := http.StatusOK, r.URL.Query()
	if query.Has("wrong") {
		status = http.StatusUnauthorized
	}
	s.render(w, r, "login", status, page{Title: "Sign in", Here: "login", Next: query.Get("next"), Wrong: query.Has("wrong")})
}

func (s *Server) serveNothing(w http.ResponseWriter, r *http.Request) {
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		http.NotFound(w, r)
		return
	}
	s.render(w, r, "sorry", http.StatusNotFound, page{Title: "Not here", Text: "There is no such page, or no such job any more: " +
		"the builder keeps its last ones (IGLU_KEEP_LOGS)."})
}
