package buildclient

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"iglu.sh/builder/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A script is what a builder says to a client once it has a job. It may take its time.
type script func(b *builderConn)

// builderConn is a builder's end of a connection.
type builderConn struct {
	t      *testing.T
	conn   *websocket.Conn
	events bool // the client has asked for them, and the builder knows them
	seq    int64
}

// startBuilder serves a builder that follows a script, with or without events, and returns
// its URL. The real one is tested in cmd/iglu-builder.
func startBuilder(t *testing.T, events bool, s script) string {
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
	return server.URL
}

// send sends a message, as the real builder encodes it.
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

// step has the builder take its next step.
func step(t *testing.T, next chan<- struct{}) {
	select {
	case next <- struct{}{}:
	case <-t.Context().Done():
	}
}

// untilGone waits until the client has left.
func (b *builderConn) untilGone() {
	for {
		if _, _, err := b.conn.NextReader(); err != nil {
			return
		}
	}
}

// A terminal is a real pseudo-terminal whose other end renders what is written to it.
type terminal struct {
	t   *testing.T
	tty *os.File // the client's end

	pty  *os.File
	done chan struct{}

	mu       sync.Mutex
	emulator *vt.Emulator
	raw      bytes.Buffer
	title    string
	bells    int
}

func openTerminal(t *testing.T, width, height int) *terminal {
	t.Helper()
	t.Setenv("TERM", "xterm-256color")
	ours, theirs, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, tty: theirs, pty: ours, done: make(chan struct{}), emulator: vt.NewEmulator(width, height)}
	term.emulator.SetCallbacks(vt.Callbacks{
		Title: func(title string) { term.title = title },
		Bell:  func() { term.bells++ },
	})
	term.resize(width, height)
	go func() {
		defer close(term.done)
		for buf := make([]byte, 4096); ; {
			n, err := ours.Read(buf)
			term.mu.Lock()
			term.raw.Write(buf[:n])
			term.emulator.Write(buf[:n])
			term.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(term.close)
	return term
}

func (t *terminal) close() {
	t.finish()
	t.pty.Close()
	t.emulator.Close()
}

// finish waits until all that was written is rendered. Nothing may be written any more.
func (t *terminal) finish() {
	t.tty.Close()
	<-t.done
}

func (t *terminal) resize(width, height int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := pty.Setsize(t.pty, &pty.Winsize{Cols: uint16(width), Rows: uint16(height)}); err != nil {
		t.t.Fatal(err)
	}
	t.emulator.Resize(width, height)
}

// screen returns what is to be seen, without the space at the ends of lines and below.
func (t *terminal) screen() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for _, line := range strings.Split(t.emulator.String(), "\n") {
		lines = append(lines, strings.TrimRight(line, " "))
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n")
}

// bytes returns all that was written.
func (t *terminal) bytes() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.raw.String()
}

// want waits until the screen shows something, which begins and ends with an empty line.
func (t *terminal) want(screen string) {
	t.t.Helper()
	screen = strings.TrimRight(strings.TrimPrefix(screen, "\n"), "\n")
	for end := time.Now().Add(5 * time.Second); t.screen() != screen; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.t.Fatalf("the screen (-want +got):\n%s", cmp.Diff(strings.Split(screen, "\n"), strings.Split(t.screen(), "\n")))
		}
	}
}

// A clock is one that the test sets.
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

// result is what a client has come to.
type result struct {
	code int
	err  error
}

// submit starts a client and returns what will get its result.
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
