package wsapi

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// TestHealthIsShared sends many requests to each health check at once. The builder is asked once for all of them, even if
// the client whose request it was disconnects: then for the others.
func TestHealthIsShared(t *testing.T) {
	const many = 50
	for _, path := range []string{"/readyz", "/api/v1/healthcheck"} {
		bubble(t, path, func(t *testing.T) {
			var asked atomic.Int64
			answer := make(chan error)
			f := serve(t, &fakeBuilder{healthy: func(ctx context.Context) error {
				asked.Add(1)
				select {
				case err := <-answer:
					return err
				case <-ctx.Done():
					return ctx.Err()
				}
			}})
			first, leave := context.WithCancel(t.Context())
			left := make(chan error)
			go func() {
				_, err := (&http.Transport{DisableKeepAlives: true, DialContext: f.dialContext}).RoundTrip(newRequest(t, "GET", path, nil, "").WithContext(first))
				left <- err
			}()
			synctest.Wait()
			statuses := make(chan int, many)
			for range many {
				go func() {
					status, _ := f.ask("GET", path)
					statuses <- status
				}()
			}
			synctest.Wait()
			if n := asked.Load(); n != 1 {
				t.Errorf("asked %d times", n)
			}
			leave()
			if err := <-left; !errors.Is(err, context.Canceled) {
				t.Errorf("the first client gets %v", err)
			}
			synctest.Wait()
			if n := asked.Load(); n != 2 {
				t.Errorf("asked %d times after the first client has left", n)
			}
			answer <- errors.New("the engine is away")
			for range many {
				if status := <-statuses; status != http.StatusServiceUnavailable {
					t.Errorf("status %d", status)
				}
			}
			go func() { answer <- nil }()
			if status, _ := f.ask("GET", path); status != http.StatusOK || asked.Load() != 3 {
				t.Errorf("later: status %d, asked %d times", status, asked.Load())
			}
		})
	}
}
