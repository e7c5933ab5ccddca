//go:build integration && long

package logs

import (
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestPageNeedsToken requests every path without the token, and from a page of another origin.
func TestPageNeedsToken(t *testing.T) {
	s := fixture.ServerWith(t, func(s *server.Settings) { s.TokenFile = fixture.TokenFile(t, fixture.GoodToken) })
	ask := func(method, path string, header http.Header) int {
		request, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if header != nil {
			request.Header = header
		}
		response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	token := http.Header{"Authorization": {"Bearer " + fixture.GoodToken}}
	elsewhere := http.Header{"Authorization": {"Bearer " + fixture.GoodToken}, "Origin": {"http://elsewhere.example"}}
	for _, test := range []struct {
		method, path string
		header       http.Header
		status       int
	}{
		{"GET", "/", nil, 401},
		{"GET", "/", http.Header{"Accept": {"text/html"}}, 303},
		{"GET", "/", token, 200},
		{"GET", "/new", nil, 401},
		{"GET", "/jobs/x", nil, 401},
		{"GET", "/api/v1/jobs", nil, 401},
		{"GET", "/api/v1/jobs", token, 200},
		{"GET", "/api/v1/jobs/x/log", nil, 401},
		{"GET", "/api/v1/jobs/x/lines", nil, 401},
		{"GET", "/api/v1/jobs/x/search?q=a", nil, 401},
		{"GET", "/api/v1/jobs/x/events", nil, 401},
		{"POST", "/api/v1/jobs/x/cancel", nil, 401},
		{"POST", "/api/v1/jobs/x/cancel", elsewhere, 403},
		{"POST", "/api/v1/jobs/x/cancel", token, 404},
		{"POST", "/login", elsewhere, 403},
		{"POST", "/logout", elsewhere, 403},
		{"GET", "/login", nil, 200},
		{"GET", "/assets/page.css", nil, 200},
		{"GET", "/assets/..%2ftemplates%2fhome.html", nil, 404},
		{"GET", "/nothing", nil, 401},
	} {
		if status := ask(test.method, test.path, test.header); status != test.status {
			t.Errorf("%s %s with %v: status %d, want %d", test.method, test.path, test.header, status, test.status)
		}
	}
}

// TestWatchers watches a job that prints 100,000 lines from 50 clients. All get all lines in order, and the server
// needs little memory. To save CPU time, all clients but one only compute a digest of what they get.
func TestWatchers(t *testing.T) {
	const count, lines = 50, 100_000
	s := fixture.StartProcess(t, "--job-image", fixture.Env.Image, "--allowed-commands", "sh")
	script := `for i in $(seq 0 99); do seq -f "line %g" $((i*1000+1)) $((i*1000+1000)); sleep 0.05; done`
	watched := func(watchers int) time.Duration {
		began := time.Now()
		c := fixture.Connect(t, s)
		c.Send(fixture.JSONOf(t, fixture.Command("sh -c '"+script+"'")))
		c.WaitFor(`"line 1"`)
		job := fixture.NewestJob(t, s)
		var all sync.WaitGroup
		digests := make([]hash.Hash32, watchers)
		for i := range digests {
			w := watcher{next: 1, digest: crc32.New(crc32.MakeTable(crc32.Castagnoli))}
			digests[i] = w.digest
			all.Go(func() {
				if err := w.watch(t.Context(), s, job); err != nil {
					t.Error(err)
				}
			})
		}
		c.Finish()
		took := time.Since(began)
		all.Wait()
		whole := crc32.New(crc32.MakeTable(crc32.Castagnoli))
		_, body := s.Get(t, "GET", "/api/v1/jobs/"+job+"/events")
		io.WriteString(whole, body)
		w := watcher{next: 1}
		if err := w.watch(t.Context(), s, job); err != nil || w.lines != lines {
			t.Errorf("there are %d lines: %v", w.lines, err)
		}
		for _, digest := range digests {
			if digest.Sum32() != whole.Sum32() {
				t.Error("a watcher got other messages")
			}
		}
		return took
	}
	alone, together := watched(0), watched(count)
	peak := peakMemory(t, s.PID)
	t.Logf("the job took %s alone and %s with %d watchers; the server took %d MiB", alone, together, count, peak>>20)
	if peak > 128<<20 {
		t.Errorf("the server took %d MiB", peak>>20)
	}
}

// peakMemory returns the peak memory of a process in bytes.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kib int
	if _, err := fmt.Sscanf(rest, "%d kB", &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
