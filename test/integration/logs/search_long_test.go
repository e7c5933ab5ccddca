//go:build integration && long

package logs

import (
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestManySearches searches a log of 200 MB, mostly control sequences, from 50 clients at a time. Each gets an
// answer within 20 s, the limit in docs/api.md, and meanwhile /livez answers within a second.
func TestManySearches(t *testing.T) {
	const size, clients, bound, slack = "200M", 50, 20 * time.Second, 5 * time.Second
	s := fixture.ServerWith(t, func(*server.Settings) {})
	got := fixture.Do(t, s, fixture.Command(`sh -c 'line=$(printf "\033[31mred\033[0m and \033[1;4mmore\033[0m"); `+
		`for i in 1 2 3 4 5 6 7 8; do line=$line$line; done; yes "$line" | head -c `+size+`; echo; exit 0'`))
	fixture.WantExit(t, got, 0)
	var jobs struct{ Jobs []struct{ ID string } }
	if _, body := s.Get(t, "GET", "/api/v1/jobs"); json.Unmarshal([]byte(body), &jobs) != nil || len(jobs.Jobs) == 0 {
		t.Fatalf("no jobs in %s", body)
	}
	address := "http://" + s.Address + "/api/v1/jobs/" + jobs.Jobs[0].ID + "/search?q=nowhere"
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			begun := time.Now()
			response, err := http.Get(address)
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if took := time.Since(begun); took > bound+slack || err != nil {
				t.Errorf("answered after %s, error %v", took, err)
			}
			if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("%s: %s", response.Status, body)
			}
		})
	}
	ended := make(chan struct{})
	go func() {
		all.Wait()
		close(ended)
	}()
	for alive := true; alive; {
		begun := time.Now()
		if status, _ := s.Get(t, "GET", "/livez"); status != http.StatusOK || time.Since(begun) > time.Second {
			t.Errorf("/livez: %d after %s", status, time.Since(begun))
		}
		select {
		case <-ended:
			alive = false
		default:
		}
	}
}
