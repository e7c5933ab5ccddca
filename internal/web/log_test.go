package web

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// TestSearchesAreBounded has as many searches as run at once, and as many requests as wait for them. The next request is
// refused at once, and one that comes when another has left waits. Those that wait get their turn, or are refused in time.
func TestSearchesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(nil, nil, noJobs{}, Options{}, nil)
		taken := make(chan bool, 2*maxWaiting)
		take := func(ctx context.Context) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			go func() { taken <- s.takeSearch(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)) }()
			synctest.Wait()
			return w
		}
		wantTaken := func(want bool, n int) {
			t.Helper()
			for range n {
				if got := <-taken; got != want {
					t.Errorf("a search begins: %t, want %t", got, want)
				}
			}
			if len(taken) != 0 {
				t.Errorf("%d more requests have ended", len(taken))
			}
		}
		wantRefused := func(w *httptest.ResponseRecorder) {
			t.Helper()
			if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
				t.Errorf("refused with %d %v", w.Code, w.Header())
			}
		}
		for range maxSearches {
			take(t.Context())
		}
		wantTaken(true, maxSearches)
		ctx, leave := context.WithCancel(t.Context())
		take(ctx)
		for range maxWaiting - 1 {
			take(t.Context())
		}
		wantTaken(false, 0)
		at := time.Now()
		refused := take(t.Context())
		wantTaken(false, 1)
		wantRefused(refused)
		if took := time.Since(at); took != 0 {
			t.Errorf("it was refused after %s", took)
		}
		leave()
		synctest.Wait()
		wantTaken(false, 1)
		last := take(t.Context())
		<-s.searches // one ends
		wantTaken(true, 1)
		wantTaken(false, maxWaiting-1)
		if took := time.Since(at); took != searchTimeout {
			t.Errorf("the others were refused after %s", took)
		}
		wantRefused(last)
	})
}
