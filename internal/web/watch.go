package web

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// maxWatchers is how many clients follow logs and events at once. Each takes some 200 KiB of
// memory. They are fewer than connlimit.MaxConns, so that other clients can connect as well.
const maxWatchers = 256

// watchers limits how many clients follow logs and events, and ends all of them when the server
// closes.
type watchers struct {
	slots   chan struct{} // holds an item for each
	timeout time.Duration // how long a watcher may accept nothing
	closing context.Context
	close   context.CancelFunc
}

func newWatchers(timeout time.Duration) *watchers {
	all := &watchers{slots: make(chan struct{}, maxWatchers), timeout: timeout}
	all.closing, all.close = context.WithCancel(context.Background())
	return all
}

// watch makes the answer to a request one that is watched for as long as the watcher likes or
// the job runs. left must be called at its end.
func (all *watchers) watch(w http.ResponseWriter, r *http.Request) (ctx context.Context, out *watcher, left func(), ok bool) {
	select {
	case all.slots <- struct{}{}:
	default:
		w.Header().Set("Retry-After", "5")
		http.Error(w, fmt.Sprintf("%d clients are watching already.", maxWatchers), http.StatusServiceUnavailable)
		return nil, nil, nil, false
	}
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(all.closing, cancel)
	return ctx, newWatcher(w, all.timeout), func() {
		stop()
		cancel()
		<-all.slots
	}, true
}

// A watcher is an answer that goes on. What is written to it is sent at once; a client that
// does not take it in time has gone.
type watcher struct {
	w       http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
}

// newWatcher makes one of an answer. The connection is not used again: it keeps its last deadline.
func newWatcher(w http.ResponseWriter, timeout time.Duration) *watcher {
	w.Header().Set("Connection", "close")
	return &watcher{w: w, control: http.NewResponseController(w), timeout: timeout}
}

func (out *watcher) extendDeadline() error {
	return out.control.SetWriteDeadline(time.Now().Add(out.timeout))
}

func (out *watcher) Write(p []byte) (n int, err error) {
	if err := out.extendDeadline(); err != nil {
		return 0, err
	}
	if n, err = out.w.Write(p); err == nil {
		err = out.control.Flush()
	}
	return n, err
}

// A patient answer waits as long as a watcher's for a client that takes nothing of it.
type patient struct {
	http.ResponseWriter
	watcher *watcher
}

func (p patient) Write(b []byte) (int, error) {
	p.watcher.extendDeadline()
	return p.ResponseWriter.Write(b)
}
