//go:build integration

package logs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

// A watcher follows a job's messages as server-sent events.
type watcher struct {
	next   int64 // the number of the next message
	lines  int   // number of lines of the job's command received
	digest hash.Hash32
}

// watch follows a job from the next message until the job has ended. It returns an error if a message is out of
// order.
func (w *watcher) watch(ctx context.Context, s *fixture.Server, job string) error {
	request, err := http.NewRequestWithContext(ctx, "GET", "http://"+s.Address+"/api/v1/jobs/"+job+"/events", nil)
	if err != nil {
		return err
	}
	request.Header.Set("Last-Event-ID", strconv.FormatInt(w.next-1, 10))
	response, err := new(http.Transport).RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream" {
		return errors.New(response.Status)
	}
	if w.digest != nil {
		_, err := io.Copy(w.digest, response.Body)
		return err
	}
	var id int64
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if text, ok := bytes.CutPrefix(lines.Bytes(), []byte("id: ")); ok {
			if id, err = strconv.ParseInt(string(text), 10, 64); err != nil || id != w.next {
				return fmt.Errorf("got message %s instead of %d: %w", text, w.next, err)
			}
			w.next++
		} else if text, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: ")); ok {
			if last, err := w.take(text, id); last || err != nil {
				return err
			}
		}
	}
	return errors.New("the stream ends before the job")
}

// take checks one message.
func (w *watcher) take(data []byte, id int64) (last bool, err error) {
	line, isLine := schemas.CutOutput(data)
	if !isLine {
		m, err := schemas.ParseMessage(data)
		if err != nil || m.Seq != id {
			return false, fmt.Errorf("message %d is %s: %w", id, data, err)
		}
		return m.Last(), nil
	}
	if number, ok := bytes.CutPrefix(line, []byte("line ")); ok {
		if string(number) != strconv.Itoa(w.lines+1) {
			return false, fmt.Errorf("got line %s after %d", number, w.lines)
		}
		w.lines++
	}
	return false, nil
}

// TestRunningLog gets the log of a running job: parts of it, and new lines as they are printed.
func TestRunningLog(t *testing.T) {
	s := fixture.ServerWith(t, func(*server.Settings) {})
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command(`sh -c 'echo first; while ! [ -e /tmp/go-on ]; do sleep 0.1; done; echo second'`)))
	c.WaitFor(`"first"`)
	log := "http://" + s.Address + "/api/v1/jobs/" + fixture.NewestJob(t, s) + "/log"
	part, err := http.NewRequestWithContext(t.Context(), http.MethodGet, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	part.Header.Set("Range", "bytes=6-8")
	answer, err := http.DefaultClient.Do(part)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if err != nil || answer.StatusCode != http.StatusPartialContent || string(text) != "job" { // of "iglu: job image"
		t.Errorf("a part: %s, %v: %q", answer.Status, err, text)
	}

	answer, err = http.Get(log + "?follow=1")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() && lines.Text() != "first" {
	}
	fixture.GoOn(t, s)
	if !lines.Scan() || lines.Text() != "second" || lines.Scan() || lines.Err() != nil {
		t.Errorf("the line after the first is %q, %v", lines.Text(), lines.Err())
	}
	c.Finish()
}

// TestWatchAgain loses the connection and continues at the next message, also after the job's end.
func TestWatchAgain(t *testing.T) {
	s := fixture.ServerWith(t, func(*server.Settings) {})
	r := fixture.Do(t, s, fixture.Command(`sh -c 'seq -f "line %g" 5000'`))
	fixture.WantExit(t, r, 0)
	job := fixture.NewestJob(t, s)
	w := watcher{next: 1}
	if err := w.watch(t.Context(), s, job); err != nil || w.lines != 5000 {
		t.Fatalf("%d lines, %v", w.lines, err)
	}
	half := watcher{next: w.next - 2000}
	for i := half.next; ; i++ { // the first line after that
		if _, body := s.Get(t, "GET", fmt.Sprintf("/api/v1/jobs/%s/events?from=%d", job, i)); strings.HasPrefix(body, "id: ") {
			at := strings.Index(body, `"line `)
			fmt.Sscanf(body[at:], `"line %d"`, &half.lines)
			half.lines--
			half.next = i
			break
		}
	}
	if err := half.watch(t.Context(), s, job); err != nil || half.lines != 5000 || half.next != w.next {
		t.Errorf("again: %d lines, %v", half.lines, err)
	}
	if status, _ := s.Get(t, "GET", fmt.Sprintf("/api/v1/jobs/%s/events?from=%d", job, w.next)); status != http.StatusNoContent {
		t.Errorf("after the end: status %d", status)
	}
}

// TestJobsAPI requests jobs, their records and their logs.
func TestJobsAPI(t *testing.T) {
	s := fixture.ServerWith(t, func(*server.Settings) {})
	j := fixture.Build(strings.Replace(fixture.Env.Git.Private, "http://", "http://git@", 1)+"/hello", "nix build -L "+fixture.GitPassword)
	j = fixture.Env.Git.WithKey(j, fixture.GitPassword)
	j.Git.GitUsername = ""
	fixture.Do(t, s, j)
	fixture.WantNoContainers(t, s) // otherwise the next job's log would say that it waits
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command(`sh -c 'seq 3; exit 3'`)), 3)

	var list struct {
		Jobs []struct {
			ID, Repository, Command, End, Error string
			ExitCode                            *int
			Begun, Ended                        time.Time
			Verdict                             *schemas.VerdictEvent
		}
	}
	_, body := s.Get(t, "GET", "/api/v1/jobs")
	if err := errors.Join(json.Unmarshal([]byte(body), &list), fixture.CheckSecrets(body)); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if len(list.Jobs) != 2 || list.Jobs[0].ExitCode == nil || *list.Jobs[0].ExitCode != 3 || list.Jobs[0].End != "exited" ||
		list.Jobs[0].Verdict == nil || !list.Jobs[0].Ended.After(list.Jobs[0].Begun) {
		t.Errorf("the jobs are %s", body)
	}
	if list.Jobs[1].Repository != fixture.Env.Git.Private+"/hello" || list.Jobs[1].Command != "nix build -L ***" {
		t.Errorf("the first job is of %s: %s", list.Jobs[1].Repository, list.Jobs[1].Command)
	}
	job := "/api/v1/jobs/" + list.Jobs[0].ID
	_, log := s.Get(t, "GET", job+"/log")
	want := []string{"iglu: running sh -c 'seq 3; exit 3'", "1", "2", "3", "iglu: failed: the command ended with exit code 3: 3. The end of its log may say more.", ""}
	if diff := cmp.Diff(want, fixture.WithoutHead(t, s, strings.Split(log, "\n"))); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
	times := regexp.MustCompile(`\[\d{13}\]`) // which differ
	for path, want := range map[string]string{
		job + "/log?follow=1":         log,
		job + "/lines?from=5&count=1": `{"from":5,"lines":["2"],"times":[0],"total":8,"ended":true}` + "\n",
		job + "/search?q=RUNNING":     `{"lines":[3],"count":1,"searched":8,"total":8}` + "\n",
		job + "/search?q=nothing":     `{"lines":[],"count":0,"searched":8,"total":8}` + "\n",
	} {
		_, body := s.Get(t, "GET", path)
		if body = times.ReplaceAllString(body, "[0]"); body != want {
			t.Errorf("%s: got %q, want %q", path, body, want)
		}
	}
	for _, test := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/api/v1/jobs/nosuchjob", 404},
		{"GET", "/api/v1/jobs/nosuchjob/log", 404},
		{"GET", "/api/v1/jobs/..%2f..%2fhistory/log", 404},
		{"GET", "/api/v1/jobs/nosuchjob/events", 404},
		{"POST", "/api/v1/jobs/nosuchjob/cancel", 404},
		{"POST", job + "/cancel", 409},
		{"PUT", job + "/cancel", 405},
		{"GET", job + "/lines?from=-1", 400},
		{"GET", job + "/lines?count=1001", 400},
		{"GET", job + "/search", 400},
		{"GET", "/api/v1/jobs?limit=x", 400},
		{"DELETE", job, 405},
		{"GET", "/nothing/here", 404},
	} {
		if status, _ := s.Get(t, test.method, test.path); status != test.status {
			t.Errorf("%s %s: status %d, want %d", test.method, test.path, status, test.status)
		}
	}
	for bytes, want := range map[string]string{"bytes=0-4": log[:5], "bytes=-2": ".\n"} {
		request, _ := http.NewRequestWithContext(t.Context(), "GET", "http://"+s.Address+job+"/log?download=1", nil)
		request.Header.Set("Range", bytes)
		response, err := new(http.Transport).RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		got := new(strings.Builder)
		bufio.NewReader(response.Body).WriteTo(got)
		response.Body.Close()
		if got.String() != want || response.StatusCode != http.StatusPartialContent ||
			response.Header.Get("Content-Disposition") != fmt.Sprintf("attachment; filename=%q", "iglu-builder-"+list.Jobs[0].ID+".log") {
			t.Errorf("%s: %q, %v", bytes, got, response.Header)
		}
	}
}
