package web

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// maxWatchers is how many clients can follow logs and events at once. Each needs some 200 KiB of memory; up to 8 MiB if it
// reads slowly, and the job prints lines of 1 MiB that have to be escaped. It is less than connlimit.MaxConns, so that
// other clients can connect as well.
const maxWatchers = 256

// watchers limits how many clients follow logs and events, and ends all of them when the server
// closes.
type watchers struct {
	slots   chan struct{} // has an item for each
	timeout time.Duration // how long a watcher may accept no data
	closing context.Context
	close   context.CancelFunc
}

func newWatchers(timeout time.Duration) *watchers {
	all := &watchers{slots: make(chan struct{}, maxWatchers), timeout: timeout}
	all.closing, all.close = context.WithCancel(context.Background())
	return all
}

// watch prepares an answer that follows a log or events until the watcher disconnects or the job ends. The
// caller must call left at the end. If ok is false, watch has answered the request.
func (all *watchers) watch(w http.ResponseWriter, r *http.Request) (ctx context.Context, out *watcher, left func(), ok bool) {
	select {
	case all.slots <- struct{}{}:
	default:
		w.Header().Set("Retry-After", "5")
		http.Error(w, fmt.Sprintf("%d clients are watching already.", maxWatchers), http.StatusServiceUnavailable)
		return nil, nil, nil, false
	}
	w.Header().Set("X-Accel-Buffering", "no") // nginx would hold back what is sent
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(all.closing, cancel)
	return ctx, newWatcher(w, all.timeout), func() {
		stop()
		cancel()
		<-all.slots
	}, true
}

// A watcher is an answer that continues while a job runs. Everything that is written to it is sent
// immediately. A client that does not accept it in time counts as disconnected.
type watcher struct {
	w       http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
}

// newWatcher returns a watcher for an answer. Its connection cannot be used again, because it keeps the last
// deadline.
func newWatcher(w http.ResponseWriter, timeout time.Duration) *watcher {
	w.Header().Set("Connection", "close")
	return &watcher{w: w, control: http.NewResponseController(w), timeout: timeout}
}

func (out *watcher) extendDeadline() error {
	return out.control.SetWriteDeadline(time.Now().Add(out.timeout))
}

// piece is how many bytes a client has to accept within the timeout.
const piece = 128 << 10

func (out *watcher) Write(p []byte) (n int, err error) {
	for {
		if err := out.extendDeadline(); err != nil {
			return n, err
		}
		written, err := out.w.Write(p[n:min(len(p), n+piece)])
		n += written
		if err == nil {
			err = out.control.Flush()
		}
		if err != nil || n == len(p) {
			return n, err
		}
	}
}

// send sends a whole answer. A client that does not accept it in time counts as disconnected, as a watcher does. The
// connection can be used again.
func (s *Server) send(w http.ResponseWriter, status int, text []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	out := s.answerTo(w)
	_, err := out.Write(text)
	out.end(err)
}

// answerTo returns a watcher for an answer that does not continue. It needs a call of end.
func (s *Server) answerTo(w http.ResponseWriter) *watcher {
	return &watcher{w: w, control: http.NewResponseController(w), timeout: s.options.ClientTimeout}
}

// end makes the connection of an answer usable again, after everything was written without an error.
func (out *watcher) end(err error) {
	if err == nil {
		out.control.SetWriteDeadline(time.Time{})
	}
}

// abortUnlessSent aborts an answer whose text could not be sent to its end, for example because the server closes. Its
// client then gets an error, and does not take the part for the whole.
func abortUnlessSent(err error) {
	if err != nil {
		panic(http.ErrAbortHandler)
	}
}

// A slowAnswer waits for a slow client as long as a watcher does.
type slowAnswer struct {
	http.ResponseWriter
	watcher *watcher
}

func (p slowAnswer) Write(b []byte) (int, error) {
	p.watcher.extendDeadline()
	return p.ResponseWriter.Write(b)
}
