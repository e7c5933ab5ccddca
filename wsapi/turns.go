package wsapi

import (
	"io"
	"net/http"
	"sync"
	"time"

	"iglu.sh/builder/wsapi/connlimit"
)

// This file prevents clients from delaying each other. It limits how many are answered at once, and reports when
// their connections are idle (see package connlimit).

// maxAnswers is how many requests for a WebSocket are answered at once. Others wait.
const maxAnswers = 64

// takeTurn waits until a request may be answered. The caller must call answered when the client has its answer,
// so that the next client is answered. answered may be called more than once. ok is false if the client
// disconnects before its turn.
func (s *Server) takeTurn(r *http.Request) (answered func(), ok bool) {
	select {
	case s.answering <- struct{}{}:
	case <-r.Context().Done():
		return nil, false
	}
	endTurn := sync.OnceFunc(func() { <-s.answering })
	return func() {
		endTurn()
		connlimit.Of(r).Waiting(time.Now())
	}, true
}

// idleInBody returns a handler that passes requests on to next. While next reads a request's
// body, the connection is idle: the server waits for the client, since it has the request's header.
func idleInBody(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = idleBody{r.Body, connlimit.Of(r), time.Now()}
		next(w, r)
	}
}

// An idleBody is a request's body. Its connection counts as idle while the body is read.
type idleBody struct {
	io.ReadCloser
	conn  *connlimit.Conn
	since time.Time
}

func (b idleBody) Read(p []byte) (int, error) {
	b.conn.Waiting(b.since)
	defer b.conn.Answering()
	return b.ReadCloser.Read(p)
}
