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

// templates are parsed when a page is first asked for; jobs and clients start the same program.
var templates = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("").Funcs(template.FuncMap{
		"args": func(args ...any) []any { return args },
	}).ParseFS(templateFiles, "templates/*.html"))
})

// page is what every page's template is given.
type page struct {
	Title   string
	Here    string  // which of the pages that every page links to
	State   jobView // what the icon shows; of no job, nothing
	SignOut bool
	Address string    // of the builder, as the page was asked for
	Running []jobView // and those that wait, the oldest first
	Waiting bool      // some do
	Job     jobView
	Jobs    []jobView
	List    list
	Nodes   nodesView // nil: they are not shown
	// Commands are what a job may run.
	Commands []string
	// Next is where to go after signing in; Wrong says that it was tried in vain.
	Next  string
	Wrong bool
	// Text is what there is to say where there is no page.
	Text string
}

func (s *Server) render(w http.ResponseWriter, r *http.Request, name string, status int, p page) {
	p.SignOut, p.Address = s.options.Token, addressOf(r)
	var text bytes.Buffer // first, so that an error is not half a page
	if err := templates().ExecuteTemplate(&text, name, p); err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	text.WriteTo(w)
}

// addressOf returns the address for the builder's clients. A proxy may have the TLS.
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
