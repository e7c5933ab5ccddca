package buildclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/schemas"
)

// An api is a fake of a builder's HTTP API.
type apiServer struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string // method, path and query of each request, and the token
}

func startAPI(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, nth int)) (*apiServer, Options) {
	t.Helper()
	s := new(apiServer)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("Authorization")))
		nth := len(s.asked)
		s.mu.Unlock()
		answer(w, r, nth)
	}))
	t.Cleanup(s.Close)
	return s, Options{URL: addressOf(t, s.Server), Token: "token", Stderr: io.Discard}
}

func (s *apiServer) wantAsked(t *testing.T, want ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range want {
		want[i] += " Bearer token"
	}
	if got := strings.Join(s.asked, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("the builder was asked\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

// event encodes a message like the builder's stream.
func event(m schemas.Message) string {
	return fmt.Sprintf("id: %d\ndata: %s\n\n", m.Seq, schemas.Document.AppendMessage(nil, &m))
}

// jobOf returns a job's stream of events: it is accepted, prints two lines and ends with a code.
func jobOf(code int) []string {
	accepted, last := schemas.Accepted(), schemas.Exited(code)
	return []string{
		event(schemas.Message{Seq: 1, Response: &accepted}),
		event(schemas.Message{Seq: 2, Stream: schemas.Stdout, Line: []byte("one")}),
		event(schemas.Message{Seq: 3, Stream: schemas.Stdout, Line: []byte(strings.Repeat("<", 100<<10))}),
		event(schemas.Message{Seq: 4, Response: &last}),
	}
}

// TestWatch shows a job whose stream breaks, once in the middle of a message.
func TestWatch(t *testing.T) {
	const from = "GET /api/v1/jobs/job/events?from="
	events := jobOf(3)
	api, o := startAPI(t, func(w http.ResponseWriter, r *http.Request, nth int) {
		w.Header().Set("Content-Type", "text/event-stream")
		switch nth {
		case 1:
			io.WriteString(w, events[0]+":\n\n"+events[1]+events[2][:50_000])
		case 2:
			panic(http.ErrAbortHandler)
		case 3:
			io.WriteString(w, events[2]+"id: 4\n")
		case 4:
			io.WriteString(w, events[3])
		}
	})
	var stdout bytes.Buffer
	o.Stdout = &stdout
	code, err := Watch(t.Context(), o, "job")
	if want := "one\n" + strings.Repeat("<", 100<<10) + "\n"; code != 3 || err == nil || stdout.String() != want {
		t.Errorf("exit code %d, %v, %.200q", code, err, stdout.String())
	}
	api.wantAsked(t, from+"1", from+"3", from+"3", from+"4")
}

// TestWatchEnds checks other ends of a stream.
func TestWatchEnds(t *testing.T) {
	for name, test := range map[string]struct {
		answer func(w http.ResponseWriter)
		want   string
	}{
		"no such job": {func(w http.ResponseWriter) {
			http.Error(w, "There is no such job, or it is no longer kept.", http.StatusNotFound)
		},
			"refuses: There is no such job, or it is no longer kept."},
		"no token":       {func(w http.ResponseWriter) { http.Error(w, "", http.StatusUnauthorized) }, "needs another token"},
		"nothing more":   {func(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) }, "has ended without a result"},
		"without result": {func(w http.ResponseWriter) { io.WriteString(w, jobOf(0)[0]+"event: end\ndata: {}\n\n") }, "has ended without a result"},
		"no message":     {func(w http.ResponseWriter) { io.WriteString(w, "data: {\n\n") }, "sent an invalid message"},
		"no number":      {func(w http.ResponseWriter) { io.WriteString(w, "id: x\n") }, "sent an invalid event"},
		"endless": {func(w http.ResponseWriter) { io.WriteString(w, "data: "+strings.Repeat("x", maxMessage)) },
			"that is too long"},
	} {
		t.Run(name, func(t *testing.T) {
			_, o := startAPI(t, func(w http.ResponseWriter, _ *http.Request, _ int) { test.answer(w) })
			o.Stdout = io.Discard
			code, err := Watch(t.Context(), o, "job")
			if code != ExitClient || err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("exit code %d, %v, want %q", code, err, test.want)
			}
		})
	}
}

// TestWatchCancelled ends the watching while no message arrives.
func TestWatchCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, o := startAPI(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		io.WriteString(w, jobOf(0)[0])
		http.NewResponseController(w).Flush()
		cancel()
		<-r.Context().Done()
	})
	o.Stdout = io.Discard
	if code, err := Watch(ctx, o, "job"); code != ExitClient || err != Interrupted("the job was not cancelled; if it is still running, this ends it: iglu-builder cancel --url ws://"+o.URL.Host+" job") {
		t.Errorf("exit code %d, %v", code, err)
	}
}

// failing is an output whose writes fail.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("the disk is full") }

// TestWatchCannotShow checks that the log is not requested again if it cannot be printed.
func TestWatchCannotShow(t *testing.T) {
	api, o := startAPI(t, func(w http.ResponseWriter, _ *http.Request, _ int) {
		io.WriteString(w, strings.Join(jobOf(0)[:3], ""))
	})
	o.Stdout = failing{}
	if code, err := Watch(t.Context(), o, "job"); code != ExitClient || err == nil || !strings.Contains(err.Error(), "the disk is full") {
		t.Errorf("exit code %d, %v", code, err)
	}
	api.wantAsked(t, "GET /api/v1/jobs/job/events?from=1")
}

// TestDetach sends a job to builders that accept it, are busy, or refuse it.
func TestDetach(t *testing.T) {
	const taken = `{"id":"abc","record":"/api/v1/jobs/abc"}`
	busy := string(schemas.Busy().Encode())
	for name, test := range map[string]struct {
		wait    bool
		answers []string // "STATUS BODY"
		id      string
		want    string // of the error
	}{
		"taken":         {false, []string{"202 " + taken}, "abc", ""},
		"busy":          {false, []string{"429 " + busy}, "", "A build job is already running.\nhint: with --wait the client tries again"},
		"busy, waits":   {true, []string{"429 " + busy, "429 " + busy, "202 " + taken}, "abc", ""},
		"refused":       {true, []string{`400 {"error":"The job is not valid.","msg":"It has no command."}`}, "", "The job is not valid. It has no command."},
		"too large":     {true, []string{`413 {"error":"x"}`}, "", "IGLU_MAX_REQUEST_BYTES"},
		"older builder": {true, []string{"405 Method Not Allowed"}, "", "is not a builder that accepts jobs without a connection"},
		"no id":         {true, []string{"202 {}"}, "", "answer has no job's id: {}"},
	} {
		t.Run(name, func(t *testing.T) {
			_, o := startAPI(t, func(w http.ResponseWriter, r *http.Request, nth int) {
				if job, _ := io.ReadAll(r.Body); string(job) != "the job" || r.Method != http.MethodPost || r.URL.Path != "/api/v1/jobs" {
					t.Errorf("%s %s: %s", r.Method, r.URL, job)
				}
				var status int
				fmt.Sscan(test.answers[nth-1], &status)
				w.WriteHeader(status)
				io.WriteString(w, test.answers[nth-1][4:])
			})
			o.Job, o.Wait = []byte("the job"), test.wait
			id, answer, err := Detach(t.Context(), o)
			if id != test.id || test.id != "" && string(answer) != taken {
				t.Errorf("id %q, answer %s", id, answer)
			}
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

// TestWait sends a job to a builder that is busy twice.
func TestWait(t *testing.T) {
	tries := 0
	u := startBuilder(t, true, func(b *builderConn) {
		if tries++; tries < 3 {
			busy := schemas.Busy()
			b.conn.WriteMessage(websocket.TextMessage, busy.Encode())
			return
		}
		b.accept()
		b.lines("one")
		b.end(schemas.Exited(0), nil)
	})
	var stdout, stderr bytes.Buffer
	got := <-submit(t, Options{URL: u, Stdout: &stdout, Stderr: &stderr, Wait: true})
	if got != (result{}) || stdout.String() != "one\n" || strings.Count(stderr.String(), "waiting for one") != 1 {
		t.Errorf("%+v, stdout %q, stderr %q", got, &stdout, &stderr)
	}
	tries = 0
	if got := <-submit(t, Options{URL: u, Stdout: &stdout}); got.code != ExitClient || !errors.Is(got.err, errBusy) {
		t.Errorf("who does not wait: %+v", got)
	}
}

// TestCancel cancels a running job, and one that has ended.
func TestCancel(t *testing.T) {
	api, o := startAPI(t, func(w http.ResponseWriter, _ *http.Request, nth int) {
		if nth > 1 {
			http.Error(w, "The job is not running any more.", http.StatusConflict)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	})
	if err := Cancel(t.Context(), o, "abc"); err != nil {
		t.Error(err)
	}
	if err := Cancel(t.Context(), o, "abc"); err == nil || !strings.HasSuffix(err.Error(), "refuses: The job is not running any more.") {
		t.Errorf("of one that has ended: %v", err)
	}
	const cancel = "POST /api/v1/jobs/abc/cancel"
	api.wantAsked(t, cancel, cancel)
}
