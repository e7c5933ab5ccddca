package cachix

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// An aborter takes uploads back that have failed, in the background.
type aborter struct {
	transport *transport
	aborting  chan struct{}  // holds a value for each abort under way
	aborts    sync.WaitGroup // those
	unsent    sync.WaitGroup // those that have not been sent
	ctx       context.Context
	cancel    context.CancelFunc
}

func newAborter(transport *transport) *aborter {
	a := &aborter{transport: transport, aborting: make(chan struct{}, transport.options.Uploads)}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	return a
}

// takeBack aborts an upload, and waits for nothing. Of uploads that a server does not answer
// to it only has options.Uploads to think about; the others are left to it, since caches
// throw away in time what was not completed.
func (a *aborter) takeBack(u *upload) {
	if u.narID == "" { // nothing has begun
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
		// Nobody can do anything about an abort that fails.
		_ = a.transport.once(ctx, call{doing: "abort an upload to", method: http.MethodPost, url: u.url("/abort", "")})
	})
}

// abortGrace is how long close waits until the aborts of uploads have been sent.
const abortGrace = 500 * time.Millisecond

// close waits until all aborts have been sent, and ends them.
func (a *aborter) close() {
	timer := time.AfterFunc(abortGrace, a.cancel)
	a.unsent.Wait()
	timer.Stop()
	a.cancel()
	a.aborts.Wait()
}
