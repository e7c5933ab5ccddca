package web

import (
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/orchestrator/nodes"
	"iglu.sh/builder/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noJobs is a builder without jobs.
type noJobs struct{}

func (noJobs) Cancel(string) bool   { return false }
func (noJobs) Nodes() []nodes.State { return nil }

var _ Jobs = noJobs{}

// fixture is a server with real stores.
type fixture struct {
	*Server
	records *history.History
	logs    *joblog.Store
}

func newFixture(t *testing.T) fixture {
	t.Helper()
	folder := t.TempDir()
	logs, err := joblog.Open(filepath.Join(folder, "logs"), joblog.Keep{Jobs: 100}, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	records, err := history.Open(filepath.Join(folder, "history.db"))
	if err != nil {
		t.Fatal(err)
	}
	s := New(records, logs, noJobs{}, Options{Commands: []string{"nix"}, ClientTimeout: time.Second}, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		s.Close()
		records.Close()
	})
	return fixture{s, records, logs}
}

func (f fixture) put(t *testing.T, r history.Record) {
	t.Helper()
	if err := f.records.Put(r); err != nil {
		t.Fatal(err)
	}
}

func (f fixture) get(path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	f.ServeHTTP(recorder{w}, r)
	return w
}

// TestEveryEndHasWords checks the page of a job for every end.
func TestEveryEndHasWords(t *testing.T) {
	h := newFixture(t)
	code := 1
	for _, end := range []jobend.End{jobend.Exited, jobend.Unpushed, jobend.OutOfMemory, jobend.Killed, jobend.TimedOut, jobend.Silent,
		jobend.Cancelled, jobend.ClientGone, jobend.Shutdown, jobend.NoImage, jobend.EngineGone, jobend.Failed, jobend.Interrupted} {
		h.put(t, history.Record{Job: string(end), Begun: time.Now(), Ended: time.Now(), End: end, ExitCode: &code})
		j := jobView{history.Record{End: end, ExitCode: &code}}
		if j.Word() == "" || j.Tone() == "" || j.Headline() == "" {
			t.Errorf("%s: %q, %q, %q", end, j.Word(), j.Tone(), j.Headline())
		}
		if page := h.get("/jobs/" + string(end)); page.Code != http.StatusOK || !strings.Contains(page.Body.String(), ">"+j.Word()+"<") {
			t.Errorf("%s: %d: %s", end, page.Code, page.Body)
		}
	}
}

// TestIcons looks for the icon of the page of each kind of job: each has one of its own.
func TestIcons(t *testing.T) {
	h := newFixture(t)
	success, failure := 0, 1
	now := time.Now()
	for want, r := range map[string]history.Record{
		"waiting": {},
		"running": {Started: now},
		"good":    {Started: now, Ended: now, End: jobend.Exited, ExitCode: &success},
		"bad":     {Started: now, Ended: now, End: jobend.Exited, ExitCode: &failure},
		"odd":     {Started: now, Ended: now, End: jobend.Cancelled},
	} {
		r.Job, r.Begun = want, now
		h.put(t, r)
		icon := "assets/icon-" + want + ".svg"
		if page := h.get("/jobs/" + want).Body.String(); !strings.Contains(page, icon+`" type="image/svg+xml"`) {
			t.Errorf("the page of a job has another icon than %s: %.500s", icon, page)
		}
		if got := h.get("/" + icon); got.Code != http.StatusOK || !strings.HasPrefix(got.Body.String(), "<svg ") {
			t.Errorf("%s: %d: %s", icon, got.Code, got.Body)
		}
	}
}

// TestReasons checks the reason of failed jobs: the headline, and the rest of the message to the client.
func TestReasons(t *testing.T) {
	one, push := 1, 75
	for _, test := range []struct {
		record         history.Record
		headline, more string
	}{
		{history.Record{End: jobend.Exited, ExitCode: &one, Reason: "hello-2.12 failed: make: *** Error 2",
			Error: "Something went wrong while building. Builder exited with error code 1", Msg: "hello-2.12 failed: make: *** Error 2. Its own log says more."},
			"hello-2.12 failed: make: *** Error 2", "Its own log says more. Exit code 1."},
		{history.Record{End: jobend.Unpushed, ExitCode: &push, Reason: "the build itself succeeded, but 1 of 2 paths could not be pushed",
			Msg: "The build itself succeeded, but 1 of 2 paths could not be pushed. Send it again."},
			"the build itself succeeded, but 1 of 2 paths could not be pushed", "Send it again. Exit code 75."},
		{history.Record{End: jobend.TimedOut, Reason: "cancelled: it ran longer than 6h0m0s, which is the most", Error: "The job was cancelled.", Msg: "It ran longer than 6h0m0s, which is the most."},
			"cancelled: it ran longer than 6h0m0s, which is the most", ""},
		{history.Record{End: jobend.NoImage, Reason: "the job image is not there", Error: "The job image is not there.", Msg: "Pull it."},
			"the job image is not there", "Pull it."},
		{history.Record{End: jobend.Failed, Error: "Of an earlier version.", Msg: "It had no reason."}, "Of an earlier version.", "It had no reason."},
		{history.Record{End: jobend.Interrupted}, "The builder died while the job ran. The log ends there.", ""},
	} {
		j := jobView{test.record}
		if j.Headline() != test.headline || j.More() != test.more {
			t.Errorf("%s: %q, %q; want %q, %q", test.record.End, j.Headline(), j.More(), test.headline, test.more)
		}
	}
}

// TestClient checks the sender of a job.
func TestClient(t *testing.T) {
	h := newFixture(t)
	for client, want := range map[string]string{
		"192.0.2.7:4711":     ` by <span title="192.0.2.7:4711">192.0.2.7</span>`,
		"[2001:db8::1]:4711": ` by <span title="[2001:db8::1]:4711">2001:db8::1</span>`,
		"":                   "UTC</time></li>",
	} {
		h.put(t, history.Record{Job: "a", Client: client, Begun: time.Now()})
		if page := h.get("/jobs/a").Body.String(); !strings.Contains(page, want) {
			t.Errorf("%s: no %s in %s", client, want, page)
		}
	}
}

// TestTextsAreEscaped puts HTML into everything that a page shows of a record.
func TestTextsAreEscaped(t *testing.T) {
	h := newFixture(t)
	const html = `"><script>alert(1)</script>`
	h.put(t, history.Record{Job: "a", Begun: time.Now(), Ended: time.Now(), End: jobend.Failed,
		Repository: html, Branch: html, Command: html, Commit: html, Client: html, Reason: html, Error: html, Msg: html})
	for _, path := range []string{"/", "/jobs/a"} {
		page := h.get(path).Body.String()
		if strings.Contains(page, "<script>") || !strings.Contains(page, "&lt;script&gt;alert(1)") {
			t.Errorf("%s: %s", path, page)
		}
	}
}

// TestPolicy checks the security headers of every answer, and that pages need nothing that they forbid.
func TestPolicy(t *testing.T) {
	h := newFixture(t)
	h.put(t, history.Record{Job: "a", Begun: time.Now()})
	for _, path := range []string{"/", "/new", "/login", "/jobs/a", "/jobs/b", "/assets/page.js", "/api/v1/jobs", "/api/v1/jobs/a"} {
		answer := h.get(path, "Accept", "text/html")
		header := answer.Header()
		if policy := header.Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") ||
			strings.Contains(policy, "unsafe") || !strings.Contains(policy, "frame-ancestors 'none'") {
			t.Errorf("%s: the policy is %q", path, policy)
		}
		if header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", path, header)
		}
		body := answer.Body.String()
		for _, inline := range []string{"<script>", "<style", " style=", " onclick=", "http://", "https://cdn"} {
			if strings.HasPrefix(header.Get("Content-Type"), "text/html") && strings.Contains(body, inline) {
				t.Errorf("%s has %s", path, inline)
			}
		}
	}
}

func TestAssets(t *testing.T) {
	h := newFixture(t)
	for name := range assets() {
		first := h.get("/assets/" + name)
		if first.Code != http.StatusOK || first.Header().Get("Content-Type") == "" {
			t.Errorf("%s: %d %v", name, first.Code, first.Header())
		}
		if again := h.get("/assets/"+name, "If-None-Match", first.Header().Get("ETag")); again.Code != http.StatusNotModified {
			t.Errorf("%s again: %d", name, again.Code)
		}
	}
}

// TestWatchersAreBounded opens the largest number of watchers and one more. Close ends all of them.
func TestWatchersAreBounded(t *testing.T) {
	h := newFixture(t)
	log, err := h.logs.Create("a", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	log.Respond(schemas.Accepted(), nil)
	server := httptest.NewServer(h)
	defer server.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	watch := func() *http.Response {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/api/v1/jobs/a/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { response.Body.Close() })
		return response
	}
	for i := range maxWatchers {
		if response := watch(); response.StatusCode != http.StatusOK {
			t.Fatalf("watcher %d: %s", i, response.Status)
		}
	}
	if response := watch(); response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" {
		t.Errorf("one more: %s", response.Status)
	}
	h.Close()
	for range maxWatchers {
		h.watchers.slots <- struct{}{} // each has left
	}
}

// TestEndWithoutLastMessage watches a job whose builder died.
func TestEndWithoutLastMessage(t *testing.T) {
	h := newFixture(t)
	log, err := h.logs.Create("cut", nil)
	if err != nil {
		t.Fatal(err)
	}
	log.Respond(schemas.Accepted(), nil)
	log.Printf("a line\nanother")
	log.Complete()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(h)
	defer server.Close()
	for path, want := range map[string]string{
		"/api/v1/jobs/cut/events?lines=no":        "\n\nevent: log\ndata: {\"lines\":2}\n\nevent: end\ndata: {}\n\n",
		"/api/v1/jobs/cut/events?lines=no&from=2": "event: log\ndata: {\"lines\":2}\n\nevent: end\ndata: {}\n\n",
		"/api/v1/jobs/cut/events":                 "\n\nevent: end\ndata: {}\n\n",
	} {
		response, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || !strings.HasSuffix(string(text), want) {
			t.Errorf("%s: %v, %q", path, err, text)
		}
	}
}

// TestRunningJobs checks the page of all jobs while no job, one job or more jobs are running. One is shown in
// full; more are listed before the ended ones, the oldest first.
func TestRunningJobs(t *testing.T) {
	h := newFixture(t)
	h.put(t, history.Record{Job: "ended", Command: "nix build", Begun: time.Now().Add(-time.Hour), End: jobend.Exited})
	for n, want := range [][]string{
		{`id="idle"`, `href="./jobs/ended"`},
		{`data-job="job1"`, `href="./jobs/ended"`},
		{`id="running"`, `href="./jobs/job1"`, `href="./jobs/job2"`, `id="jobs"`, `href="./jobs/ended"`},
		{`id="running"`, `href="./jobs/job1"`, `href="./jobs/job2"`, `href="./jobs/job3"`, `id="jobs"`, `href="./jobs/ended"`},
	} {
		if n > 0 {
			h.put(t, history.Record{Job: fmt.Sprint("job", n), Command: "nix build", Begun: time.Now()})
		}
		rest := h.get("/").Body.String()
		for _, text := range want {
			_, after, ok := strings.Cut(rest, text)
			if !ok {
				t.Errorf("with %d running jobs, %s is not where it is to be", n, text)
			}
			rest = after
		}
	}
}

// TestRelative checks that pages work below a path of a proxy, which the server does not know: all their addresses are
// relative, and lead where they should.
func TestRelative(t *testing.T) {
	h := newFixture(t)
	h.options.Token = true // for the form that signs out
	for n := range 2 * defaultRecords {
		h.put(t, ended(fmt.Sprintf("ended%02d", n), "https://github.com/a/b", 0, 1, 0))
	}
	h.put(t, history.Record{Job: "runs", Begun: time.Now()})
	attributes := regexp.MustCompile(`(?:href|src|action|data-copy)="([^"]*)"`)
	for _, path := range []string{"/", "/?repository=github.com/a/b", "/new", "/login", "/jobs/ended00", "/jobs/runs", "/jobs/none", "/no/such/page", "/new/"} {
		page := h.get(path, "Accept", "text/html").Body.String()
		base, err := url.Parse("https://example.com/builder" + path)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range attributes.FindAllStringSubmatch(page, -1) {
			address, err := base.Parse(html.UnescapeString(match[1]))
			if err != nil || strings.HasPrefix(match[1], "#") || address.Host != base.Host || strings.HasPrefix(match[0], "data-copy") && !strings.Contains(match[1], "/api/") {
				continue // text to copy, or a page elsewhere
			}
			below, ok := strings.CutPrefix(address.Path, "/builder/")
			if words := []string{"", "new", "login", "logout", "jobs", "api", "assets"}; !ok || !slices.Contains(words, strings.Split(below, "/")[0]) {
				t.Errorf("%s: %s leads to %s", path, match[0], address)
			}
		}
		if n := strings.Count(page, "assets/page.css"); n != 1 {
			t.Errorf("%s: %d style sheets", path, n)
		}
	}
}
