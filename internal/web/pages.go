package web

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/jobend"
)

//go:embed templates
var templateFiles embed.FS

var templates = template.Must(template.ParseFS(templateFiles, "templates/*.html"))

// page is what every page's template is given.
type page struct {
	Title   string
	SignOut bool
	Running []jobView
	Job     jobView
	Jobs    []jobView
	// Commands are what a job may run.
	Commands []string
	// Next is where to go after signing in; Wrong says that it was tried in vain.
	Next  string
	Wrong bool
	// Text is what there is to say where there is no page.
	Text string
}

func (s *Server) render(w http.ResponseWriter, r *http.Request, name string, status int, p page) {
	p.SignOut = s.options.Token
	var text bytes.Buffer // first, so that an error is not half a page
	if err := templates.ExecuteTemplate(&text, name, p); err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	text.WriteTo(w)
}

func (s *Server) serveHome(w http.ResponseWriter, r *http.Request) {
	records, err := s.records.Newest(defaultRecords + 1)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	p := page{Title: "Jobs"}
	for _, record := range records {
		if view := (jobView{record}); record.Runs() {
			p.Running = append(p.Running, view)
		} else {
			p.Jobs = append(p.Jobs, view)
		}
	}
	s.render(w, r, "home", http.StatusOK, p)
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
	s.render(w, r, "page", http.StatusOK, page{Title: "Job", Job: jobView{record}})
}

func (s *Server) serveNew(w http.ResponseWriter, r *http.Request) {
	s.render(w, r, "new", http.StatusOK, page{Title: "New job", Commands: s.options.Commands})
}

func (s *Server) serveLogin(w http.ResponseWriter, r *http.Request) {
	status, query := http.StatusOK, r.URL.Query()
	if query.Has("wrong") {
		status = http.StatusUnauthorized
	}
	s.render(w, r, "login", status, page{Title: "Sign in", Next: query.Get("next"), Wrong: query.Has("wrong")})
}

func (s *Server) serveNothing(w http.ResponseWriter, r *http.Request) {
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		http.NotFound(w, r)
		return
	}
	s.render(w, r, "sorry", http.StatusNotFound, page{Title: "Not here", Text: "There is no such page, or no such job any more: " +
		"the builder keeps its last ones (IGLU_KEEP_LOGS)."})
}

// A jobView is a job in a person's words.
type jobView struct{ history.Record }

// ends are the words for how a job ended, and how good that is.
var ends = map[jobend.End]struct{ word, tone string }{
	jobend.Exited:      {"failed", "bad"},
	jobend.Unpushed:    {"not pushed", "bad"},
	jobend.OutOfMemory: {"out of memory", "bad"},
	jobend.Killed:      {"killed", "bad"},
	jobend.TimedOut:    {"timed out", "bad"},
	jobend.Silent:      {"silent", "bad"},
	jobend.Cancelled:   {"cancelled", "odd"},
	jobend.ClientGone:  {"client gone", "odd"},
	jobend.Shutdown:    {"shut down", "odd"},
	jobend.NoImage:     {"no image", "bad"},
	jobend.EngineGone:  {"no engine", "bad"},
	jobend.Failed:      {"failed", "bad"},
	jobend.Interrupted: {"interrupted", "odd"},
}

// Word says how the job is.
func (j jobView) Word() string {
	switch {
	case j.Runs():
		return "running"
	case j.Succeeded():
		return "succeeded"
	}
	return ends[j.End].word
}

// Tone is the class of the word's colour.
func (j jobView) Tone() string {
	switch {
	case j.Runs():
		return "running"
	case j.Succeeded():
		return "good"
	}
	return ends[j.End].tone
}

// Failed reports whether somebody will want to know what the end of the log says.
func (j jobView) Failed() bool { return !j.Runs() && !j.Succeeded() }

// Where is the job's source.
func (j jobView) Where() string {
	switch {
	case j.Repository == "":
		return "without a repository"
	case j.Branch == "":
		return j.Repository
	}
	return j.Repository + " at " + j.Branch
}

// Sentence says more about how the job is.
func (j jobView) Sentence() string {
	switch {
	case j.Runs():
		return "The job runs."
	case j.Succeeded():
		return "The job succeeded."
	case j.End == jobend.Interrupted:
		return "The builder died while the job ran. Its log ends there."
	case j.Error == "":
		return "Its client has gone."
	case j.Msg == "":
		return j.Error
	}
	return strings.TrimSuffix(j.Error, ".") + ". " + j.Msg
}

// Took is how long the job ran, or has been running; empty if that is not known.
func (j jobView) Took() string {
	switch {
	case j.Runs():
		return duration(time.Since(j.Begun).Truncate(time.Second))
	case j.Ended.IsZero():
		return ""
	}
	return duration(j.Ended.Sub(j.Begun))
}

// duration is a time as the page writes it; assets/words.js does so, too.
func duration(d time.Duration) string {
	switch s := int(d.Seconds()); {
	case s < 10 && d%time.Second != 0:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %d s", s/60, s%60)
	default:
		return fmt.Sprintf("%d h %d min", s/3600, s/60%60)
	}
}

// Elapsed is how many seconds the job has been running.
func (j jobView) Elapsed() int { return int(time.Since(j.Begun).Seconds()) }

// ShortCommit is a commit as people write it.
func (j jobView) ShortCommit() string { return j.Commit[:min(7, len(j.Commit))] }
