package cachix

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// An aborter aborts failed uploads, in the background.
type aborter struct {
	transport *transport
	aborting  chan struct{}  // has a value for each running abort
	aborts    sync.WaitGroup // the running aborts
	unsent    sync.WaitGroup // those whose requests have not been sent yet
	ctx       context.Context
	cancel    context.CancelFunc
}

func newAborter(transport *transport) *aborter {
	a := &aborter{transport: transport, aborting: make(chan struct{}, transport.options.Uploads)}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	return a
}

// takeBack starts to abort an upload, and does not wait. If a server does not answer, at most
// options.Uploads aborts run at the same time. Other uploads are not aborted then: caches delete incomplete
// uploads after a while.
func (a *aborter) takeBack(u *upload) {
	if u.narID == "" { // the upload has not begun
		return
	}
	select {
	case a.aborting <- struct{}{}:
	default:
		return
	}
	sent := sync.OnceFunc(a.unsent.Done)
	a.unsent.Add(1)
	a.aborts.Go(func() {
		defer func() { <-a.aborting }()
		defer sent()
		ctx, cancel := context.WithTimeout(a.ctx, a.transport.options.AbortTimeout)
		defer cancel()
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { sent() }})
		// The error is ignored, because nothing can be done about it.
		_ = a.transport.once(ctx, call{doing: "abort an upload to", method: http.MethodPost, url: u.url("/abort", "")})
	})
}

// abortGrace is how long close waits until the aborts of uploads have been sent.
const abortGrace = 500 * time.Millisecond

// close waits until the requests of all aborts have been sent, and then cancels the aborts.
func (a *aborter) close() {
	timer := time.AfterFunc(abortGrace, a.cancel)
	a.unsent.Wait()
	timer.Stop()
	a.cancel()
	a.aborts.Wait()
}
