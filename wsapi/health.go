package wsapi

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"iglu.sh/builder/wsapi/connlimit"
)

// This file answers the health checks, which need no token.

// healthy is the text that Iglu's clients expect, with this spelling.
const healthy = "Everyting seems healthy!"

func (s *Server) serveHealthcheck(w http.ResponseWriter, r *http.Request) {
	if allowReading(w, r) && s.isHealthy(w, r) {
		io.WriteString(w, healthy)
	}
}

// isHealthy reports whether the container engine answers. If it does not, isHealthy answers the request.
func (s *Server) isHealthy(w http.ResponseWriter, r *http.Request) bool {
	err := checkFor(r, &s.healthy)
	if err != nil {
		s.log.Warn("health check", "err", err)
		http.Error(w, "The builder cannot run jobs: its container engine does not answer.", http.StatusServiceUnavailable)
	}
	return err == nil
}

// serveLive answers as long as the server runs.
func (s *Server) serveLive(w http.ResponseWriter, r *http.Request) {
	if allowReading(w, r) {
		io.WriteString(w, "The builder is running.\n")
	}
}

// serveReady answers whether a job would be accepted and could run, now or when a running job has ended.
func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) {
	if !allowReading(w, r) {
		return
	}
	if s.draining.Err() != nil {
		http.Error(w, shuttingDown.Error, http.StatusServiceUnavailable)
		return
	}
	if err := checkFor(r, &s.ready); err != nil {
		s.log.Warn("not ready", "err", err)
		http.Error(w, "The builder cannot run jobs: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	io.WriteString(w, "The builder accepts jobs.\n")
}

// checkFor returns the result of a check. Meanwhile the request's connection counts as idle: an engine may hang for
// minutes, and anyone can send such requests.
func checkFor(r *http.Request, check *sharedCheck) error {
	conn := connlimit.Of(r)
	conn.Waiting(time.Now())
	defer conn.Answering()
	return check.check(r.Context())
}

// A sharedCheck asks the builder something once at a time: requests that come meanwhile get the same answer. Each time
// costs the engine several calls, and anyone can send any number of requests.
type sharedCheck struct {
	ask func(ctx context.Context) error

	mu  sync.Mutex
	now *asking // nil: the builder is not being asked
}

// asking is one time that the builder is asked.
type asking struct {
	done chan struct{} // closed at the end
	err  error
	left bool // the client whose request it was has disconnected, so that err says nothing
}

// check returns what the builder answers.
func (c *sharedCheck) check(ctx context.Context) error {
	for {
		now, isOwn := c.begin()
		if isOwn {
			defer c.end(now)
			now.err = c.ask(ctx)
			now.left = ctx.Err() != nil
			return now.err
		}
		select {
		case <-now.done:
			if !now.left {
				return now.err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// begin returns the present asking. isOwn is true if it is the caller's, who must call end.
func (c *sharedCheck) begin() (now *asking, isOwn bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		c.now, isOwn = &asking{done: make(chan struct{})}, true
	}
	return c.now, isOwn
}

func (c *sharedCheck) end(now *asking) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = nil
	close(now.done)
}
