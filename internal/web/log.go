package web

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"sync"
	"time"
	"unicode/utf8"
)

// serveLog serves the text of a log: the current content or, with follow, the log until the job ends.
func (s *Server) serveLog(w http.ResponseWriter, r *http.Request) {
	follow, ok := number(w, r, "follow", 0, 1)
	if !ok {
		return
	}
	log := s.reader(w, r)
	if log == nil {
		return
	}
	defer log.Close()
	nameText(w, r, "iglu-builder-"+r.PathValue("id")+".log")
	if follow == 0 {
		http.ServeContent(slowAnswer{w, newWatcher(w, s.options.ClientTimeout)}, r, "", time.Time{}, io.NewSectionReader(log, 0, log.State().Bytes))
		return
	}
	ctx, out, left, ok := s.watchers.watch(w, r)
	if !ok {
		return
	}
	defer left()
	if _, err := out.Write(nil); err != nil { // sends the header before the first line
		return
	}
	abortUnlessSent(log.Follow(ctx, 0, out))
}

// nameText sets the headers of a text, with the file name for browsers if the request is for a download.
func nameText(w http.ResponseWriter, r *http.Request, name string) {
	disposition := "inline"
	if r.URL.Query().Get("download") != "" {
		disposition = "attachment"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Disposition", fmt.Sprintf("%s; filename=%q", disposition, name))
}

// Limits of one answer.
const (
	defaultLines = 500
	maxLines     = 1000
	maxFound     = 10_000
	maxQuery     = 1000 // bytes
	// maxSearches is how many logs are searched at once. Each search uses a whole CPU. searchTimeout is the
	// time limit of a search, and of the wait for others.
	maxSearches   = 2
	searchTimeout = 10 * time.Second
	// maxWaiting is how many requests wait for others' searches. The connections of searches are few of
	// connlimit.MaxConns, so that other clients can connect as well.
	maxWaiting = 20
)

// serveLines serves lines of a log for the page, by their numbers from 0.
func (s *Server) serveLines(w http.ResponseWriter, r *http.Request) {
	from, ok := number(w, r, "from", 0, math.MaxInt64)
	if !ok {
		return
	}
	count, ok := number(w, r, "count", defaultLines, maxLines)
	if !ok {
		return
	}
	log := s.reader(w, r)
	if log == nil {
		return
	}
	defer log.Close()
	state := log.State()
	lines, isCut, err := linesFrom(log, state.Bytes, from, count)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	times, err := log.Times(from, int64(len(lines)))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.answer(w, r, struct {
		From  int64    `json:"from"`
		Lines []string `json:"lines"`
		Cut   []int    `json:"cut,omitempty"`
		Times []int64  `json:"times"`
		Total int64    `json:"total"`
		Ended bool     `json:"ended"`
	}{from, lines, isCut, millis(times), state.Lines, state.Ended})
}

// millis returns times in milliseconds since 1970, for JavaScript.
func millis(times []time.Time) []int64 {
	all := make([]int64, len(times))
	for i, at := range times {
		all[i] = at.UnixMilli()
	}
	return all
}

// serveSearch serves the numbers of the lines that contain a text.
func (s *Server) serveSearch(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query().Get("q")
	if query == "" || len(query) > maxQuery || !utf8.ValidString(query) {
		http.Error(w, fmt.Sprintf("q is not a text of 1 to %d bytes.", maxQuery), http.StatusBadRequest)
		return
	}
	from, ok := number(w, r, "from", 0, math.MaxInt64)
	if !ok {
		return
	}
	log := s.reader(w, r)
	if log == nil {
		return
	}
	defer log.Close()
	if !s.takeSearch(w, r) {
		return
	}
	leave := sync.OnceFunc(func() { <-s.searches })
	defer leave()
	state := log.State()
	ctx, cancel := context.WithTimeout(r.Context(), searchTimeout)
	defer cancel()
	search, err := find(ctx, log, state.Bytes, query, from, maxFound)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	searched := state.Lines
	if ctx.Err() != nil {
		searched = search.line
	}
	leave() // before the answer: its client may be slow
	s.answer(w, r, struct {
		Lines    []int64 `json:"lines"`
		Count    int64   `json:"count"`
		Searched int64   `json:"searched"`
		Total    int64   `json:"total"`
	}{search.found, search.count, searched, state.Lines})
}

// takeSearch waits until a search may begin. If that takes too long, or too many wait, it answers the request.
func (s *Server) takeSearch(w http.ResponseWriter, r *http.Request) bool {
	timeout := time.NewTimer(searchTimeout)
	defer timeout.Stop()
	select {
	case s.waiting <- struct{}{}:
		defer func() { <-s.waiting }()
	default:
		refuseSearch(w)
		return false
	}
	select {
	case s.searches <- struct{}{}:
		return true
	case <-r.Context().Done():
	case <-timeout.C:
		refuseSearch(w)
	}
	return false
}

func refuseSearch(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "5")
	http.Error(w, "Too many logs are being searched.", http.StatusServiceUnavailable)
}
