package wsapi

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/schemas"
)

// post posts a job, and returns the answer.
func (f *fixture) post(job string, header http.Header) (response *http.Response, body string) {
	f.t.Helper()
	return f.do(newRequest(f.t, http.MethodPost, schemas.JobsPath, header, job))
}

// TestSubmit posts a job, which continues when its client has disconnected.
func TestSubmit(t *testing.T) {
	forms(t, func(t *testing.T, format schemas.Format) {
		b := newHeldBuilder()
		f := serve(t, b)
		response, body := f.post(jobIn(format, "nix"), nil)
		const want = `{"id":"submitted","record":"/api/v1/jobs/submitted","events":"/api/v1/jobs/submitted/events","page":"/jobs/submitted"}` + "\n"
		if response.StatusCode != http.StatusAccepted || body != want || response.Header.Get("Content-Type") != "application/json" ||
			response.Header.Get("Location") != "/api/v1/jobs/submitted" {
			t.Errorf("%s, %v: %s", response.Status, response.Header, body)
		}
		<-b.begun
		response, body = f.post(jobIn(format, "nix"), nil)
		if response.StatusCode != http.StatusTooManyRequests || body != busy+"\n" || response.Header.Get("Retry-After") != "5" {
			t.Errorf("a second job: %s, %v: %s", response.Status, response.Header, body)
		}
		f.wantRefused("busy")
		b.exit <- 0
		synctest.Wait()
		if response, body = f.post(jobIn(format, "nix"), nil); response.StatusCode != http.StatusAccepted {
			t.Errorf("after its end: %s: %s", response.Status, body)
		}
		<-b.begun
		b.exit <- 0
	})
}

// TestSubmitRefused posts what is not taken.
func TestSubmitRefused(t *testing.T) {
	const tooLarge = `{"error":"The job is larger than the builder accepts.","msg":"Its setting IGLU_MAX_REQUEST_BYTES is the limit.","jobStatus":"failed"}`
	for name, test := range map[string]struct {
		job    string
		status int
		want   string
		reason string
	}{
		"nothing":   {"", http.StatusBadRequest, notJSON("the message is empty, or no text"), "malformed"},
		"no JSON":   {"{", http.StatusBadRequest, "", "malformed"},
		"no job":    {"{}", http.StatusBadRequest, "", "invalid"},
		"command":   {jobIn(schemas.Document, "rm -rf /"), http.StatusBadRequest, "", "command"},
		"too large": {strings.Repeat(" ", 2<<20), http.StatusRequestEntityTooLarge, tooLarge, "too-large"},
	} {
		bubble(t, name, func(t *testing.T) {
			f := serve(t, &fakeBuilder{})
			response, body := f.post(test.job, nil)
			if response.StatusCode != test.status || !strings.HasPrefix(body, `{"error":"`) || test.want != "" && body != test.want+"\n" {
				t.Errorf("%s: %s", response.Status, body)
			}
			f.wantRefused(test.reason)
		})
	}
}

// TestSubmitWhileDraining posts a job to a server that shuts down.
func TestSubmitWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, &fakeBuilder{})
		f.server.Drain()
		if response, body := f.post(job(), nil); response.StatusCode != http.StatusServiceUnavailable || body != notTaken+"\n" {
			t.Errorf("%s: %s", response.Status, body)
		}
		f.wantRefused("draining")
	})
}

// TestSubmitProtected posts jobs without the token, and from another origin's page.
func TestSubmitProtected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := printing("", 0)
		f := serve(t, b, func(o *Options) { o.Auth.Token = "right" })
		for _, header := range []http.Header{
			nil,
			{"Authorization": {"Bearer wrong"}},
		} {
			if response, body := f.post(job(), header); response.StatusCode != http.StatusUnauthorized {
				t.Errorf("%v: %s: %s", header, response.Status, body)
			}
		}
		if response, body := f.post(job(), http.Header{"Authorization": {"Bearer right"}, "Origin": {"https://evil.example"}}); response.StatusCode != http.StatusForbidden {
			t.Errorf("of another origin: %s: %s", response.Status, body)
		}
		f.wantRefused("unauthorized", "unauthorized", "origin")
		if log := f.log.String(); strings.Count(log, `msg="client refused"`) != 3 || !strings.Contains(log, "reason=origin") {
			t.Errorf("the log is %s", log)
		}
		if response, body := f.post(job(), http.Header{"Authorization": {"Bearer right"}}); response.StatusCode != http.StatusAccepted {
			t.Errorf("%s: %s", response.Status, body)
		}
	})
}

// TestSlowSubmit has a client not send all of its job: it takes no place, and its time is bounded.
func TestSlowSubmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBuilder{}
		f := serve(t, b)
		conn, err := f.connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		begun := time.Now()
		io.WriteString(conn, "POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
		synctest.Wait()
		if b.taken.Load() != 0 {
			t.Error("it has a place")
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		if response.StatusCode != http.StatusRequestTimeout || string(body) != noJobInTime+"\n" {
			t.Errorf("%s: %s", response.Status, body)
		}
		if took := time.Since(begun); took != 30*time.Second {
			t.Errorf("it took %s", took)
		}
		f.wantRefused("no-job")
	})
}

// TestManySubmits has as many posted jobs being parsed as may be: one more waits. A client that leaves meanwhile has no job.
func TestManySubmits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHeldBuilder()
		f := serve(t, b)
		for range maxParses {
			f.server.parsing <- struct{}{}
		}
		send := func() net.Conn {
			conn, err := f.connect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(conn, "POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(job()), job())
			return conn
		}
		leaving, staying := send(), send()
		defer staying.Close()
		elapse(time.Hour)
		leaving.Close()
		synctest.Wait()
		if b.taken.Load() != 0 {
			t.Error("it has a place")
		}
		<-f.server.parsing
		if response, err := http.ReadResponse(bufio.NewReader(staying), nil); err != nil || response.StatusCode != http.StatusAccepted {
			t.Errorf("it is answered with %v, %v", response, err)
		}
		<-b.begun
		synctest.Wait()
		if n := b.taken.Load(); n != 1 {
			t.Errorf("%d jobs have begun", n)
		}
		b.exit <- 0
	})
}

// TestDrainDuringSubmit shuts a server down while a client posts a job: the job is refused.
func TestDrainDuringSubmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, printing("", 0))
		conn, err := f.connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		job := job()
		fmt.Fprintf(conn, "POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(job), job[:10])
		synctest.Wait()
		f.server.Drain()
		io.WriteString(conn, job[10:])
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusServiceUnavailable || string(body) != notTaken+"\n" {
			t.Errorf("%s: %s", response.Status, body)
		}
		f.wantRefused("draining")
	})
}
