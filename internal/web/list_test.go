package web

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/schemas"
)

// ended returns the record of a job that began some minutes ago and took as many seconds.
func ended(job, repository string, minutes, seconds, code int) history.Record {
	begun := time.Now().Add(-time.Duration(minutes) * time.Minute)
	return history.Record{Job: job, Repository: repository, Command: "nix build", Begun: begun,
		Ended: begun.Add(time.Duration(seconds) * time.Second), End: jobend.Exited, ExitCode: &code}
}

// TestFilters filters jobs by repository and state, on the page and in the API.
func TestFilters(t *testing.T) {
	h := newFixture(t)
	h.put(t, ended("a-good", "https://example.com/a.git", 9, 10, 0))
	h.put(t, ended("b-good", "https://example.com/b", 8, 10, 0))
	h.put(t, ended("a-bad", "git@example.com:a", 7, 10, 1)) // the same, by ssh
	h.put(t, history.Record{Job: "a-runs", Repository: "https://example.com/a", Command: "nix build", Begun: time.Now(), Started: time.Now()})
	h.put(t, history.Record{Job: "b-waits", Repository: "https://example.com/b", Command: "nix build", Begun: time.Now()})
	for query, want := range map[string]string{
		"":                         "b-waits a-runs a-bad b-good a-good",
		"repository=example.com/a": "a-runs a-bad a-good",
		"state=succeeded":          "b-good a-good",
		"state=failed":             "a-bad",
		"state=unended":            "b-waits a-runs",
		"state=running":            "a-runs",
		"state=waiting":            "b-waits",
		"before=a-bad":             "b-good a-good",
		"repository=https://example.com/a.git&state=succeeded&before=a-bad": "a-good",
		"repository=https://example.com/c":                                  "",
	} {
		answer := h.get("/api/v1/jobs?" + query)
		var jobs struct{ Jobs []struct{ ID string } }
		if err := json.Unmarshal(answer.Body.Bytes(), &jobs); err != nil {
			t.Fatalf("%s: %v: %s", query, err, answer.Body)
		}
		var ids []string
		page := h.get("/?" + query).Body.String()
		for _, job := range jobs.Jobs {
			ids = append(ids, job.ID)
			if !strings.Contains(page, `"./jobs/`+job.ID+`"`) && !strings.Contains(page, `data-job="`+job.ID+`"`) {
				t.Errorf("%s: %s is not on the page", query, job.ID)
			}
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
		if n := strings.Count(page, `href="./jobs/`) + strings.Count(page, "data-job="); n != len(ids) {
			t.Errorf("%s: %d jobs are on the page, want %d", query, n, len(ids))
		}
	}
	for query, want := range map[string]int{"state=odd": http.StatusBadRequest, "before=nosuchjob": http.StatusNotFound} {
		for _, path := range []string{"/?", "/api/v1/jobs?"} {
			if got := h.get(path + query).Code; got != want {
				t.Errorf("%s%s: %d, want %d", path, query, got, want)
			}
		}
	}
}

// TestPages goes through more jobs than a page shows.
func TestPages(t *testing.T) {
	h := newFixture(t)
	const many = 2*defaultRecords + 5
	for n := range many {
		h.put(t, ended(fmt.Sprintf("job%02d", n), "https://example.com/a?b&c", many-n, 1, 0))
	}
	seen, pages := 0, 0
	for address := "/?repository=" + url.QueryEscape("https://example.com/a?b&c"); address != ""; pages++ {
		page := h.get(address).Body.String()
		seen += strings.Count(page, `href="./jobs/`)
		_, older, _ := strings.Cut(page, `id="older" href="`)
		older, _, _ = strings.Cut(older, `"`)
		address = strings.TrimPrefix(strings.ReplaceAll(older, "&amp;", "&"), ".")
	}
	if seen != many || pages != 3 {
		t.Errorf("%d jobs on %d pages, want %d on 3", seen, pages, many)
	}
}

// TestDurations draws the durations of a repository's last jobs.
func TestDurations(t *testing.T) {
	var records []history.Record
	for n := range maxBars + 5 {
		records = append(records, ended(fmt.Sprint(n), "https://example.com/a", n, n+1, n%2))
	}
	records = append(records, ended("other", "", 1, 1, 0))
	all := repositoriesOf(records)
	if len(all) != 1 || all[0].Name != "example.com/a" || all[0].Last.Job != "0" || len(all[0].Bars) != maxBars {
		t.Fatalf("%+v", all)
	}
	v := all[0]
	first, last := v.Bars[0], v.Bars[maxBars-1]
	if first.Job.Job != fmt.Sprint(maxBars-1) || first.Height != barHeight || first.Y != 0 || first.X != 0 {
		t.Errorf("the first bar is %+v", first)
	}
	if last.Job.Job != "0" || last.Height != minBar || last.X+barStep != v.Width() {
		t.Errorf("the last bar is %+v", last)
	}
	if v.Median() != "11 s" || v.Summary() != "10 of the last 20 jobs succeeded" {
		t.Errorf("%q, %q", v.Median(), v.Summary())
	}
}

// TestLongRepositories requests a page with many repositories whose addresses are long: it has only the newest of them, so
// that it does not become large.
func TestLongRepositories(t *testing.T) {
	h := newFixture(t)
	const many, length = 50, 2000
	for n := range many {
		h.put(t, ended(fmt.Sprint(n), fmt.Sprintf("https://example.com/%0*d", length-len("https://example.com/"), n), many-n, 1, 0))
	}
	page := h.get("/").Body.String()
	if n, want := strings.Count(page, `<option value="https:`), maxAddresses/length; n != want {
		t.Errorf("%d repositories are on the page, want %d", n, want)
	}
	if newest := fmt.Sprintf(`%04d"`, many-1); !strings.Contains(page, newest) {
		t.Error("the newest repository is not on the page")
	}
}

// TestBadge requests the badge of a repository after each of its jobs.
func TestBadge(t *testing.T) {
	h := newFixture(t)
	const repository = `https://example.com/a"><script>alert(1)</script>`
	badgeOf := func(query string) string {
		answer := h.get("/api/v1/badge?" + query)
		if kind := answer.Header().Get("Content-Type"); answer.Code != http.StatusOK || kind != "image/svg+xml" || answer.Header().Get("Cache-Control") != "no-cache" {
			t.Fatalf("%s: %d %v", query, answer.Code, answer.Header())
		}
		var svg struct {
			XMLName xml.Name `xml:"http://www.w3.org/2000/svg svg"`
			Title   string   `xml:"title"`
		}
		if err := xml.Unmarshal(answer.Body.Bytes(), &svg); err != nil || strings.Contains(answer.Body.String(), "script") {
			t.Fatalf("%v: %s", err, answer.Body)
		}
		return strings.TrimPrefix(svg.Title, "iglu build: ")
	}
	query := url.Values{"repository": {repository}}.Encode()
	for n, step := range []struct {
		record history.Record
		want   string
	}{
		{ended("none", "https://example.com/b", 90, 1, 0), "no job"},
		{ended("good", repository, 80, 1, 0), "succeeded"},
		{ended("bad", repository, 70, 1, 1), "failed"},
		{history.Record{Job: "cancelled", Repository: repository, Begun: time.Now().Add(-time.Hour), End: jobend.Cancelled}, "failed"},
		{history.Record{Job: "runs", Repository: repository, Begun: time.Now()}, "failed"},
	} {
		step.record.Branch = []string{"main", "other"}[n%2]
		h.put(t, step.record)
		if got := badgeOf(query); got != step.want {
			t.Errorf("after %s: %q, want %q", step.record.Job, got, step.want)
		}
	}
	if got := badgeOf(query + "&branch=other"); got != "succeeded" {
		t.Errorf("of the other branch: %q", got)
	}
	if got := badgeOf(query + "&branch=third"); got != "no job" {
		t.Errorf("of a branch without a job: %q", got)
	}
	if got := h.get("/api/v1/badge").Code; got != http.StatusBadRequest {
		t.Errorf("without a repository: %d", got)
	}
}

// TestFirstJob checks the page of a builder that has no jobs yet.
func TestFirstJob(t *testing.T) {
	h := newFixture(t)
	for _, test := range []struct {
		proxy, want string
		token       bool
	}{
		{"", "iglu-builder build --url ws://builder.example:3000 --repo", false},
		{"https", "iglu-builder build --url wss://builder.example:3000 --token-file TOKEN-FILE --repo", true},
	} {
		h.options.Token = test.token
		r := httptest.NewRequest(http.MethodGet, "http://builder.example:3000/", nil)
		r.Header.Set("X-Forwarded-Proto", test.proxy)
		w := httptest.NewRecorder()
		h.ServeHTTP(recorder{w}, r)
		if strings.Count(w.Body.String(), test.want) != 2 { // to be read, and to be copied
			t.Errorf("the page lacks %q: %s", test.want, w.Body)
		}
	}
}

// TestLinesOfPhases requests the times of lines and the first lines of phases.
func TestLinesOfPhases(t *testing.T) {
	h := newFixture(t)
	before := time.Now().UnixMilli()
	log, err := h.logs.Create("a", nil)
	if err != nil {
		t.Fatal(err)
	}
	log.Respond(schemas.Accepted(), nil)
	log.Printf("one\ntwo")
	log.Event(schemas.LineEvent{Derivation: "d", Text: "not of the log"})
	log.Event(schemas.PhaseEvent{Phase: schemas.Build})
	log.Printf("three")
	log.Respond(schemas.Exited(0), nil)
	log.Complete()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	var lines struct{ Times []int64 }
	if err := json.Unmarshal(h.get("/api/v1/jobs/a/lines?from=1").Body.Bytes(), &lines); err != nil {
		t.Fatal(err)
	}
	if len(lines.Times) != 2 || lines.Times[0] < before || lines.Times[1] > time.Now().UnixMilli() {
		t.Errorf("the lines came at %v", lines.Times)
	}
	server := httptest.NewServer(h)
	defer server.Close()
	response, err := http.Get(server.URL + "/api/v1/jobs/a/events?lines=no")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if want := "event: phase\ndata: {\"phase\":\"build\",\"line\":2}\n\nid: 5\n"; err != nil || !strings.Contains(string(text), want) {
		t.Errorf("%v; no %q in %s", err, want, text)
	}
}

// TestUnended checks a page with more running and waiting jobs than a list can have, and with ended ones: it has
// all of them, the one that was sent first at the top.
func TestUnended(t *testing.T) {
	h := newFixture(t)
	now := time.Now()
	const many = 2 * defaultRecords
	for n := range many {
		r := history.Record{Job: fmt.Sprintf("runs%02d", n), Command: "nix build", Begun: now.Add(time.Duration(n-1000) * time.Second)}
		if n < 3 {
			r.Started = r.Begun
		}
		h.put(t, r)
		h.put(t, ended(fmt.Sprintf("ended%02d", n), "", 0, 1, 0))
	}
	page := h.get("/").Body.String()
	_, running, _ := strings.Cut(page, `id="running"`)
	running, others, _ := strings.Cut(running, `id="jobs"`)
	var got []string
	for _, part := range strings.Split(running, `href="./jobs/`)[1:] {
		job, _, _ := strings.Cut(part, `"`)
		got = append(got, job)
	}
	if len(got) != many || !slices.IsSorted(got) {
		t.Errorf("on the page run and wait %q", got)
	}
	if n := strings.Count(running, ">waiting<"); n != many-3 {
		t.Errorf("%d jobs wait, want %d", n, many-3)
	}
	if n := strings.Count(others, `href="./jobs/ended`); n != defaultRecords || strings.Contains(others, `href="./jobs/runs`) {
		t.Errorf("%d others, want %d", n, defaultRecords)
	}
	if want := fmt.Sprintf("● 3 running, %d waiting", many-3); !strings.Contains(page, want) {
		t.Errorf("the title is not %q", want)
	}
}

// manyUnended are more unended jobs than the API lists.
type manyUnended struct{ Records }

func (manyUnended) Find(_ string, limit int, match func(history.Record) bool) (records []history.Record, err error) {
	for n := range maxRecords + 5 {
		if r := (history.Record{Job: fmt.Sprintf("job%04d", maxRecords+5-n)}); match(r) && len(records) < limit {
			records = append(records, r)
		}
	}
	return records, nil
}

func (manyUnended) Get(job string) (history.Record, error) { return history.Record{Job: job}, nil }

// TestManyUnended checks that the page lists the same of many jobs as the API: otherwise it would load itself for ever, to
// show what it seems to lack.
func TestManyUnended(t *testing.T) {
	h := newFixture(t)
	h.put(t, ended("ended", "", 0, 1, 0))
	h.Server.records = manyUnended{h.records}
	var answer struct{ Jobs []history.Record }
	if err := json.Unmarshal(h.get(fmt.Sprintf("/api/v1/jobs?state=unended&limit=%d", maxRecords)).Body.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	page := h.get("/").Body.String()
	if n := strings.Count(page, `href="./jobs/job`); n != maxRecords || len(answer.Jobs) != maxRecords {
		t.Errorf("%d jobs are on the page, %d in the API", n, len(answer.Jobs))
	}
	for _, r := range answer.Jobs {
		if !strings.Contains(page, `href="./jobs/`+r.Job+`"`) {
			t.Fatalf("%s is not on the page", r.Job)
		}
	}
}

// changingRecords are records of which the requests see another state when they get them one by one.
type changingRecords struct {
	Records
	gets int
	get  func(history.Record) (history.Record, error)
}

func (c *changingRecords) Get(job string) (history.Record, error) {
	c.gets++
	r, err := c.Records.Get(job)
	if err != nil || c.get == nil {
		return r, err
	}
	return c.get(r)
}

// firstWrite calls a function at the first write.
type firstWrite struct {
	recorder
	call func()
}

func (w *firstWrite) Write(p []byte) (int, error) {
	if w.call != nil {
		w.call()
		w.call = nil
	}
	return w.recorder.Write(p)
}

// TestWholeRecords lists records by the API: whole ones, and some at a time, because their requests and results can be long.
func TestWholeRecords(t *testing.T) {
	h := newFixture(t)
	const many = 20
	long := strings.Repeat("x", 15<<10)
	for n := range many {
		r := ended(fmt.Sprint(n), "", many-n, 1, 0)
		r.Request, r.Results, r.Verdict = json.RawMessage(`{"a":"`+long+`"}`), json.RawMessage(`{"b":2}`), json.RawMessage(`{"c":3}`)
		h.put(t, r)
	}
	records := &changingRecords{Records: h.records}
	h.Server.records = records
	answer, read := httptest.NewRecorder(), 0
	h.ServeHTTP(&firstWrite{recorder{answer}, func() { read = records.gets }}, httptest.NewRequest(http.MethodGet, "/api/v1/jobs", nil))
	var all struct{ Jobs []json.RawMessage }
	if err := json.Unmarshal(answer.Body.Bytes(), &all); err != nil || len(all.Jobs) != many {
		t.Fatalf("%d records, %v", len(all.Jobs), err)
	}
	if read > many/2 {
		t.Errorf("%d records are read before the first is sent", read)
	}
	for n, got := range all.Jobs {
		one := h.get(fmt.Sprintf("/api/v1/jobs/%d", many-1-n)).Body.String()
		if string(got)+"\n" != one || !strings.Contains(one, `"request":{"a":"`+long+`"},"results":{"b":2},"verdict":{"c":3}`) {
			t.Errorf("in the list is %s, the record is %s", got, one)
		}
	}
}

// TestRecordsChange has records change while they are listed: one ends, one is removed, and one cannot be read.
func TestRecordsChange(t *testing.T) {
	h := newFixture(t)
	for n, job := range []string{"a", "b", "c"} {
		h.put(t, history.Record{Job: job, Begun: time.Now().Add(time.Duration(n)), Started: time.Now()})
	}
	for change, test := range map[string]struct {
		change string // the job that changes; all others stay
		get    func(history.Record) (history.Record, error)
		want   string
	}{
		"ended":   {"b", func(r history.Record) (history.Record, error) { r.End = jobend.Exited; return r, nil }, "c a"},
		"removed": {"c", func(r history.Record) (history.Record, error) { return r, history.ErrNotFound }, "b a"},
		"damaged": {"c", func(r history.Record) (history.Record, error) { return r, errors.New("damaged") }, "500"},
		"cut":     {"b", func(r history.Record) (history.Record, error) { return r, errors.New("damaged") }, "aborted"},
	} {
		h.Server.records = &changingRecords{Records: h.records, get: func(r history.Record) (history.Record, error) {
			if r.Job == test.change {
				return test.get(r)
			}
			return r, nil
		}}
		if got := listed(h); got != test.want {
			t.Errorf("%s: %s, want %s", change, got, test.want)
		}
	}
}

// listed returns the ids of the running jobs in the API, or how its answer failed.
func listed(h fixture) (ids string) {
	defer func() {
		if recover() == http.ErrAbortHandler {
			ids = "aborted"
		}
	}()
	answer := h.get("/api/v1/jobs?state=running")
	if answer.Code != http.StatusOK {
		return fmt.Sprint(answer.Code)
	}
	var all struct{ Jobs []struct{ ID string } }
	if err := json.Unmarshal(answer.Body.Bytes(), &all); err != nil {
		return err.Error()
	}
	for _, job := range all.Jobs {
		ids += " " + job.ID
	}
	return strings.TrimSpace(ids)
}

// TestFewUnended lists the jobs that have not ended, of many, on the page and in the API.
func TestFewUnended(t *testing.T) {
	h := newFixture(t)
	const many, waiting, running = 50, 3, 2
	for n := range many {
		h.put(t, ended(fmt.Sprintf("ended%03d", n), "https://example.com/a", 1000+n, 1, 0))
	}
	for n := range waiting + running {
		r := history.Record{Job: fmt.Sprintf("job%d", n), Repository: "https://example.com/" + []string{"a", "b"}[n%2], Begun: time.Now().Add(time.Duration(n) * time.Second)}
		if n < running {
			r.Started = r.Begun
		}
		h.put(t, r)
	}
	for query, want := range map[string]string{
		"state=unended&limit=1000":               "job4 job3 job2 job1 job0",
		"state=unended&limit=2":                  "job4 job3",
		"state=unended&limit=0":                  "",
		"state=waiting":                          "job4 job3 job2",
		"state=running":                          "job1 job0",
		"state=unended&repository=example.com/b": "job3 job1",
		"state=running&before=job1":              "job0",
	} {
		var answer struct{ Jobs []history.Record }
		if err := json.Unmarshal(h.get("/api/v1/jobs?"+query).Body.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range answer.Jobs {
			got = append(got, r.Job)
		}
		if strings.Join(got, " ") != want || answer.Jobs == nil {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
		page := h.get("/?" + query).Body.String()
		for _, job := range got {
			if !strings.Contains(page, `href="./jobs/`+job+`"`) {
				t.Errorf("%s: %s is not on the page", query, job)
			}
		}
	}
}
