package web

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"strings"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/joblog"
)

// Limits of one answer.
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
	found, err := s.records.Find(f.Before, int(limit), f.match)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	out := s.answerTo(w)
	gathered := bufio.NewWriterSize(out, piece)
	next := `{"jobs":[`
	for _, record := range found { // one at a time, because together they can take much memory
		text, err := s.selected(f, record.Job)
		if err != nil {
			s.fail(w, r, err)
			if next == "," {
				panic(http.ErrAbortHandler) // so that the client does not take the part for the whole
			}
			return
		}
		if text == nil {
			continue
		}
		if _, err := gathered.Write(append([]byte(next), text...)); err != nil {
			return
		}
		next = ","
	}
	fmt.Fprintln(gathered, strings.TrimPrefix(next, ",")+"]}")
	out.end(gathered.Flush())
}

// selected returns a record as JSON. It returns nil if the record was removed, or the filter does not select it any more.
func (s *Server) selected(f filter, job string) (text []byte, err error) {
	record, err := s.records.Get(job)
	if errors.Is(err, history.ErrNotFound) || err == nil && !f.match(record) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(record)
}

func (s *Server) serveRecord(w http.ResponseWriter, r *http.Request) {
	record, err := s.records.Get(r.PathValue("id"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.answer(w, r, record)
}

// serveCancel ends a job. The client that sent the job gets the reason.
func (s *Server) serveCancel(w http.ResponseWriter, r *http.Request) {
	job := r.PathValue("id")
	if _, err := s.records.Get(job); err != nil {
		s.fail(w, r, err)
		return
	}
	if !s.jobs.Cancel(job) {
		http.Error(w, "The job is not running any more.", http.StatusConflict)
		return
	}
	s.log.Info("job cancelled on the page", "job", job, "client", r.RemoteAddr)
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
	s.send(w, http.StatusOK, append(text, '\n'))
}

// fail answers a request that has failed.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, history.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		http.Error(w, "There is no such job, or it is no longer kept.", http.StatusNotFound)
	case r.Context().Err() != nil: // the client has disconnected
	default:
		s.log.Error("cannot answer", "path", r.URL.Path, "err", err)
		http.Error(w, "The builder cannot read its records of jobs. The server's log has the reason.", http.StatusInternalServerError)
	}
}

// reader returns a reader of the log of a request's job. If it fails, it answers the request.
func (s *Server) reader(w http.ResponseWriter, r *http.Request) *joblog.Reader {
	reader, err := s.logs.Reader(r.PathValue("id"))
	if err != nil {
		s.fail(w, r, err)
		return nil
	}
	return reader
}

// number returns a parameter, a whole number from 0 to most. If it is invalid, it answers the request.
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
