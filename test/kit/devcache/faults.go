package devcache

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
)

// A Fault is a way for a cache to fail. It wraps the cache's handler, and answers instead of it or changes
// its answer.
type Fault func(next http.Handler) http.Handler

// Misbehave sets the faults of the cache and removes earlier ones. Without faults, the cache works
// normally.
func (s *Server) Misbehave(faults ...Fault) {
	var handler http.Handler = s.routes
	for _, fault := range faults {
		handler = fault(handler)
	}
	s.handler.Store(&handler)
}

// On limits a fault to requests with a method and a path. The pattern is one of path.Match, such as
// /api/v1/cache/*/multipart-nar/*/complete.
func On(method, pattern string, fault Fault) Fault {
	return func(next http.Handler) http.Handler {
		faulty := fault(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if ok, _ := path.Match(pattern, r.URL.Path); ok && r.Method == method {
				faulty.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// WhereBody limits a fault to requests for whose body holds returns true.
func WhereBody(holds func(body string) bool, fault Fault) Fault {
	return func(next http.Handler) http.Handler {
		faulty := fault(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			if holds(string(body)) {
				faulty.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Times limits a fault to the first n requests that reach it.
func Times(n int64, fault Fault) Fault {
	return func(next http.Handler) http.Handler {
		faulty := fault(next)
		var count atomic.Int64
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if count.Add(1) <= n {
				faulty.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Answer answers with a status, a text and headers (name, value, name, value, …).
func Answer(status int, text string, headers ...string) Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			for i := 0; i+1 < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.WriteHeader(status)
			io.WriteString(w, text)
		})
	}
}

// Hang never answers. It returns when the client disconnects.
func Hang() Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body) // otherwise the server does not notice that the client has disconnected
			<-r.Context().Done()
		})
	}
}

// Tell calls a function at each request, before the fault.
func Tell(told func(), fault Fault) Fault {
	return func(next http.Handler) http.Handler {
		faulty := fault(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			told()
			faulty.ServeHTTP(w, r)
		})
	}
}

// BreakOff reads up to n bytes of a request and closes the connection.
func BreakOff(n int64) Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			io.CopyN(io.Discard, r.Body, n)
			panic(http.ErrAbortHandler)
		})
	}
}

// LoseAnswer serves the request, but closes the connection instead of sending the answer.
func LoseAnswer() Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(newRecorder(), r)
			panic(http.ErrAbortHandler)
		})
	}
}

// DatabaseGone behaves as Iglu Cache does when it loses its database. It answers the next requests, as many
// as answers says, that the cache does not exist. Then it crashes: died is called, and no further request
// is answered.
func DatabaseGone(answers int64, died func()) Fault {
	return func(http.Handler) http.Handler {
		var count atomic.Int64
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			switch n := count.Add(1); {
			case n <= answers:
				respond(w, errNoCache)
				return
			case n == answers+1:
				died()
			}
			panic(http.ErrAbortHandler)
		})
	}
}

// WithoutHeader removes a header from an answer.
func WithoutHeader(name string) Fault {
	return Edit(func(header http.Header, body []byte) []byte {
		header.Del(name)
		return body
	})
}

// Replace replaces a text in an answer.
func Replace(old, replacement string) Fault {
	return Edit(func(_ http.Header, body []byte) []byte {
		return bytes.ReplaceAll(body, []byte(old), []byte(replacement))
	})
}

// ReplaceField replaces the value of a field in a narinfo. If the value is empty, it removes the field.
func ReplaceField(name, value string) Fault {
	return Edit(func(_ http.Header, body []byte) []byte {
		var lines strings.Builder
		for line := range strings.Lines(string(body)) {
			if strings.HasPrefix(line, name+":") {
				if value == "" {
					continue
				}
				line = name + ": " + value + "\n"
			}
			lines.WriteString(line)
		}
		return []byte(lines.String())
	})
}

// Edit changes an answer before it is sent. The whole body is kept in memory.
func Edit(edit func(header http.Header, body []byte) []byte) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			recorder := newRecorder()
			next.ServeHTTP(recorder, r)
			body := edit(recorder.header, recorder.body.Bytes())
			maps.Copy(w.Header(), recorder.header)
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			w.WriteHeader(recorder.status)
			w.Write(body)
		})
	}
}

// A recorder keeps an answer. (httptest.ResponseRecorder is not used: its package adds a flag to the program.)
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func newRecorder() *recorder {
	return &recorder{header: http.Header{}, status: http.StatusOK}
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
