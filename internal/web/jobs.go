package web

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"strconv"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/joblog"
)

// Bounds of one answer.
const (
	defaultRecords = 20
	maxRecords     = 1000
)

func (s *Server) serveRecords(w http.ResponseWriter, r *http.Request) {
	limit, ok := number(w, r, "limit", defaultRecords, maxRecords)
	if !ok {
		return
	}
	f, ok := filterOf(w, r)
	if !ok {
		return
	}
	records, err := s.records.Find(f.Before, int(limit), f.match)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if records == nil {
		records = []history.Record{}
	}
	s.answer(w, r, struct {
		Jobs []history.Record `json:"jobs"`
	}{records})
}

func (s *Server) serveRecord(w http.ResponseWriter, r *http.Request) {
	record, err := s.records.Get(r.PathValue("id"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.answer(w, r, record)
}

// serveCancel ends a job. The builder's answer to whoever sent it says why it ended.
func (s *Server) serveCancel(w http.ResponseWriter, r *http.Request) {
	job := r.PathValue("id")
	if _, err := s.records.Get(job); err != nil {
		s.fail(w, r, err)
		return
	}
	if !s.jobs.Cancel(job) {
		http.Error(w, "The job does not run any more.", http.StatusConflict)
		return
	}
	s.log.Info("job cancelled by the page", "job", job, "client", r.RemoteAddr)
	w.WriteHeader(http.StatusAccepted)
}

// answer answers with JSON.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(text, '\n'))
}

// fail answers what cannot be answered.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, history.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		http.Error(w, "There is no such job, or none any more.", http.StatusNotFound)
	case r.Context().Err() != nil: // nobody is there to be told
	default:
		s.log.Error("cannot answer", "path", r.URL.Path, "err", err)
		http.Error(w, "The builder cannot read what it has kept of its jobs. Its own log says why.", http.StatusInternalServerError)
	}
}

// reader returns a reader of the log of the job that a request is about, or answers it.
func (s *Server) reader(w http.ResponseWriter, r *http.Request) *joblog.Reader {
	reader, err := s.logs.Reader(r.PathValue("id"))
	if err != nil {
		s.fail(w, r, err)
		return nil
	}
	return reader
}

// number returns a parameter that is a whole number from 0 to most, or answers the request.
func number(w http.ResponseWriter, r *http.Request, name string, initial, most int64) (n int64, ok bool) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return initial, true
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > most {
		http.Error(w, name+" is not a whole number from 0 to "+strconv.FormatInt(most, 10)+".", http.StatusBadRequest)
		return 0, false
	}
	return n, true
}
