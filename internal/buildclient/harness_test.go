package buildclient

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"iglu.sh/builder/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A script sends a builder's messages to a client after a job has arrived. It may wait in between.
type script func(b *builderConn)

// builderConn is the builder's side of a connection.
type builderConn struct {
	t      *testing.T
	conn   *websocket.Conn
	events bool // the client has asked for them, and the builder knows them
	seq    int64
}

// startBuilder starts a fake builder that runs a script, with or without events, and returns its URL.
func startBuilder(t *testing.T, events bool, s script) *url.URL {
	t.Helper()
	upgrader := websocket.Upgrader{}
	if events {
		upgrader.Subprotocols = []string{schemas.EventsProtocol}
	}
	var sessions sync.WaitGroup
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sessions.Add(1)
		defer sessions.Done()
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		if _, _, err := conn.ReadMessage(); err != nil {
			t.Error(err)
			return
		}
		s(&builderConn{t: t, conn: conn, events: conn.Subprotocol() == schemas.EventsProtocol})
	}))
	t.Cleanup(func() {
		server.Close()
		sessions.Wait()
	})
	return addressOf(t, server)
}

// addressOf returns the URL of a server for a client.
func addressOf(t *testing.T, server *httptest.Server) *url.URL {
	t.Helper()
	u, err := ParseAddress(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// send sends a message in the encoding of the real builder.
func (b *builderConn) send(m schemas.Message) {
	b.seq++
	m.Seq, m.Time = b.seq, time.Unix(1_700_000_000, 0)
	var data []byte
	switch {
	case b.events:
		data = schemas.Document.AppendMessage(nil, &m)
	case m.Response != nil:
		data = m.Response.Encode()
	case m.Event == nil:
		data = schemas.Output(string(m.Line)).Encode()
	default:
		return
	}
	b.conn.WriteMessage(websocket.TextMessage, data)
}

func (b *builderConn) lines(lines ...string) {
	for _, line := range lines {
		b.send(schemas.Message{Stream: schemas.Stdout, Line: []byte(line)})
	}
}

func (b *builderConn) event(e schemas.Event) {
	b.send(schemas.Message{Event: schemas.AppendEvent(nil, e)})
}

func (b *builderConn) accept() {
	response := schemas.Accepted()
	b.send(schemas.Message{Response: &response})
}

// end sends the last message, with a verdict if it is not nil, and closes the connection.
func (b *builderConn) end(response schemas.Response, verdict *schemas.VerdictEvent) {
	m := schemas.Message{Response: &response}
	if verdict != nil {
		m.Event = schemas.AppendEvent(nil, *verdict)
	}
	b.send(m)
	b.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
}

// await waits for the test's next step.
func (b *builderConn) await(next <-chan struct{}) {
	select {
	case <-next:
	case <-b.t.Context().Done():
	}
}

// step lets the builder take its next step.
func step(t *testing.T, next chan<- struct{}) {
	select {
	case next <- struct{}{}:
	case <-t.Context().Done():
	}
}

// untilGone waits until the client has disconnected.
func (b *builderConn) untilGone() {
	for {
		if _, _, err := b.conn.NextReader(); err != nil {
			return
		}
	}
}

// A clock shows the time that the test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Unix(1_700_000_000, 0)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// result is what a client has returned and printed.
type result struct {
	code int
	err  error
}

// submit starts a client and returns a channel for its result.
func submit(t *testing.T, o Options) <-chan result {
	if o.Job == nil {
		o.Job = []byte("{}")
	}
	if o.Stderr == nil {
		o.Stderr = io.Discard
	}
	ended := make(chan result, 1)
	go func() {
		code, err := Submit(t.Context(), o)
		ended <- result{code, err}
	}()
	return ended
}

func jsonOf(t *testing.T, value any) []byte {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func number[T any](n T) *T { return &n }
