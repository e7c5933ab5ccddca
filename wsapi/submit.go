package wsapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"iglu.sh/builder/schemas"
)

// submitted is the answer to a job that was posted and accepted. It says where to find the job. The addresses
// are paths on the server.
type submitted struct {
	ID     string `json:"id"`
	Record string `json:"record"` // the job's record
	Events string `json:"events"` // its messages, as they appear
	Page   string `json:"page"`   // its page, for people
}

// busyRetry is after how many seconds a client should try again if the builder is busy.
const busyRetry = "5"

// maxParses is how many posted jobs are parsed at once. Others wait. Parsing takes much more memory than the job, and unlike
// clients of the WebSocket, those that post have no slot yet.
const maxParses = 4

// serveSubmit starts a job that does not depend on a connection, and answers where to find it.
func (s *Server) serveSubmit(w http.ResponseWriter, r *http.Request) {
	if reason := s.auth.Check(w, r); reason != "" {
		s.noteRefused(r, reason)
		return
	}
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.options.RequestTimeout))
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.options.MaxRequestBytes))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		s.refuseSubmit(w, r, http.StatusRequestEntityTooLarge, refusedLarge,
			schemas.Unable("The job is larger than the builder accepts.", "Its setting IGLU_MAX_REQUEST_BYTES is the limit."))
		return
	}
	if err != nil { // the client has disconnected, or does not send the rest
		s.refuseSubmit(w, r, http.StatusRequestTimeout, refusedSilent, s.noJobInTime())
		return
	}
	select {
	case s.parsing <- struct{}{}:
	case <-r.Context().Done():
		return
	}
	request, _, err := schemas.ParseRequest(data, s.options.Commands)
	<-s.parsing
	if refusal, ok := errors.AsType[*schemas.Refusal](err); ok {
		s.log.Info("job refused", "client", r.RemoteAddr, "why", refusal)
		s.refuseSubmit(w, r, http.StatusBadRequest, refusal.Kind(), refusal.Response())
		return
	}
	if s.draining.Err() != nil {
		s.refuseSubmit(w, r, http.StatusServiceUnavailable, refusedDraining, shuttingDown)
		return
	}
	id, refusal := s.builder.Submit(request, r.RemoteAddr)
	switch {
	case refusal == nil:
		record := schemas.JobsPath + "/" + id
		w.Header().Set("Location", record)
		answerJSON(w, http.StatusAccepted, submitted{ID: id, Record: record, Events: record + "/events", Page: "/jobs/" + id})
	case *refusal == schemas.Busy():
		w.Header().Set("Retry-After", busyRetry)
		s.refuseSubmit(w, r, http.StatusTooManyRequests, refusedBusy, *refusal)
	default:
		answerJSON(w, http.StatusServiceUnavailable, refusal)
	}
}

// refuseSubmit answers a job that is refused, and logs and counts the reason.
func (s *Server) refuseSubmit(w http.ResponseWriter, r *http.Request, status int, reason string, answer schemas.Response) {
	s.noteRefused(r, reason)
	answerJSON(w, status, answer)
}

func answerJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.Encode(value)
}
