//go:build integration && long

package protocol

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

// TestHundredClients connects a hundred clients at the same time. One is accepted.
func TestHundredClients(t *testing.T) {
	const clients = 100
	var (
		start    = make(chan struct{})
		all      sync.WaitGroup
		mu       sync.Mutex
		admitted []*fixture.Client
	)
	for range clients {
		all.Go(func() {
			<-start
			conn, _, err := websocket.DefaultDialer.Dial("ws://"+fixture.Env.Server.Address+"/api/v1/build", nil)
			if err != nil {
				t.Error(err)
				return
			}
			c := &fixture.Client{T: t, Conn: conn}
			// The accepted client gets no message until it sends a job.
			conn.SetReadDeadline(time.Now().Add(15 * time.Second))
			_, data, err := conn.ReadMessage()
			switch {
			case err != nil:
				mu.Lock()
				defer mu.Unlock()
				admitted = append(admitted, c)
				return
			case string(data) != fixture.Busy:
				t.Errorf("a client got %s", data)
			}
			if _, code := c.Read(); code != 1011 {
				t.Errorf("a refused client got close code %d", code)
			}
			conn.Close()
		})
	}
	close(start)
	all.Wait()
	if len(admitted) != 1 {
		t.Errorf("%d of %d clients were accepted", len(admitted), clients)
	}
	for _, c := range admitted {
		c.Conn.Close()
	}
	fixture.WantFree(t, fixture.Env.Server)
}

func TestSecondJobOnAConnection(t *testing.T) {
	fixture.InFormats(t, func(t *testing.T, format schemas.Format) {
		c := fixture.ConnectIn(t, format, fixture.Env.Server)
		c.SendJob(fixture.Command(`sh -c 'echo begun; sleep 1; echo done'`))
		c.WaitFor(`"begun"`)
		c.SendJob(fixture.Command(`sh -c 'echo second'`))
		c.Send(`anything`)
		got := c.Finish()
		if diff := cmp.Diff([]string{fixture.Busy, fixture.Busy, fixture.Succeeded}, got.Messages); diff != "" {
			t.Errorf("messages (-want +got):\n%s", diff)
		}
		fixture.WantLine(t, got, "done")
	})
}

func TestNoJobInTime(t *testing.T) {
	s := fixture.ServerWith(t, func(s *server.Settings) { s.RequestTimeout = 2 * time.Second })
	got := fixture.Connect(t, s).Finish()
	want := `{"error":"No job was received within 2s.","msg":"Connect again and send it at once.","jobStatus":"failed"}`
	if diff := cmp.Diff([]string{want}, got.Messages); diff != "" || got.CloseCode != websocket.ClosePolicyViolation {
		t.Errorf("close code %d, messages (-want +got):\n%s", got.CloseCode, diff)
	}
	fixture.WantFree(t, s)
}

func TestJobTooLarge(t *testing.T) {
	job := `{"git":{"noClone":true},"buildOptions":{"command":"sh -c 'true %s'","cachix":{"push":false}}}`
	for _, size := range []int{2 << 20, 20 << 20} {
		c := fixture.Connect(t, fixture.Env.Server)
		go c.Conn.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, job, strings.Repeat("x", size)))
		if got := c.Finish(); len(got.Messages) != 0 || got.CloseCode != websocket.CloseMessageTooBig {
			t.Errorf("a job of %d bytes got %+v", size, got)
		}
	}
	c := fixture.Connect(t, fixture.Env.Server)
	c.Send(fmt.Sprintf(job, strings.Repeat("x", 100_000)))
	if got := c.Finish(); got.CloseCode != websocket.CloseNormalClosure {
		t.Errorf("a job of 100,000 bytes got %v, close code %d", got.Messages, got.CloseCode)
	}
}

func TestHealthcheck(t *testing.T) {
	const path = "/api/v1/healthcheck"
	if status, body := fixture.Env.Server.Get(t, "GET", path); status != 200 || body != "Everyting seems healthy!" {
		t.Errorf("GET: %d %q", status, body)
	}
	if status, body := fixture.Env.Server.Get(t, "HEAD", path); status != 200 || body != "" {
		t.Errorf("HEAD: %d %q", status, body)
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
		if status, body := fixture.Env.Server.Get(t, method, path); status != 405 || body != "Method Not Allowed\n" {
			t.Errorf("%s: %d %q", method, status, body)
		}
	}
	if status, _ := fixture.Env.Server.Get(t, "POST", "/api/v1/build"); status != 405 {
		t.Errorf("POST of the build endpoint: %d", status)
	}
	if status, _ := fixture.Env.Server.Get(t, "GET", "/api/v1/build"); status != 400 {
		t.Errorf("GET of the build endpoint without an upgrade: %d", status)
	}
}

// TestManyLines runs a job that prints a million lines. Each arrives as one message.
func TestManyLines(t *testing.T) {
	t.Parallel()
	s := fixture.ServerWith(t, func(*server.Settings) {})
	fixture.InFormats(t, func(t *testing.T, format schemas.Format) {
		const lines = 1_000_000
		c := fixture.ConnectIn(t, format, s)
		c.SendJob(fixture.Command(fmt.Sprintf("seq -f %%077.0f %d", lines)))
		c.WaitFor("iglu: running")
		var message []byte
		for n := 1; n <= lines; n++ {
			if n%1000 == 1 {
				c.Conn.SetReadDeadline(time.Now().Add(fixture.MessageTimeout))
			}
			// Client.Read is not used, because its validation takes longer than the job.
			_, r, err := c.Conn.NextReader()
			if err != nil {
				t.Fatalf("line %d: %v", n, err)
			}
			if message, err = fixture.ReadInto(message[:0], r); err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf(`{"stdout":"%077d","jobStatus":"running"}`, n)
			got := message
			if format == schemas.Stack {
				if got, err = fixture.InDocumentsForm(message); err != nil {
					t.Fatalf("line %d is %s: %v", n, message, err)
				}
			}
			if string(got) != want {
				t.Fatalf("line %d is %s", n, message)
			}
		}
		if got := c.Finish(); len(got.Lines) != 0 || len(got.Messages) != 1 || got.Messages[0] != fixture.Succeeded {
			t.Errorf("got after the lines: %+v", got)
		}
	})
}
