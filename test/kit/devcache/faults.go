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

// A Fault is a way for a cache to misbehave: it stands in front of the rest and
// answers in its place, or spoils its answer.
type Fault func(next http.Handler) http.Handler

// Misbehave puts faults in front of the cache, in place of those from before. With
// none, the cache behaves.
func (s *Server) Misbehave(faults ...Fault) {
	var handler http.Handler = s.routes
	for _, fault := range faults {
		handler = fault(handler)
	}
	s.handler.Store(&handler)
}

// On limits a fault to requests with a method and a path: a pattern as of path.Match,
// such as /api/v1/cache/*/multipart-nar/*/complete.
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

// WhereBody limits a fault to requests with a body of which holds is true.
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

// Hang never answers. It lets go when the client does.
func Hang() Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body) // or nobody sees that the client is gone
			<-r.Context().Done()
		})
	}
}

// Tell calls a function when a request comes, before it meets a fault.
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

// LoseAnswer does what is asked and closes the connection in place of an answer.
func LoseAnswer() Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(newRecorder(), r)
			panic(http.ErrAbortHandler)
		})
	}
}

// DatabaseGone is how Iglu Cache goes when its database does: it says of the next requests,
// answers of them, that there is no such cache, and then it dies. died is called at that
// point, and nothing is answered from then on.
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

// WithoutHeader leaves a header out of an answer.
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

// ReplaceField replaces the value of a field in a narinfo, or leaves the field out
// where the value is empty.
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

// Edit changes an answer before it is sent. Its body has to fit in memory.
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

// A recorder keeps an answer. (That of net/http/httptest would add a flag to the
// program.)
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
