package wsapi

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/await"
	"iglu.sh/builder/test/kit/memnet"
	"iglu.sh/builder/wsapi/connlimit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The messages that clients get, in the format of the document; see inFormat.
const (
	accepted     = `{"msg":"Start Building","jobStatus":"starting"}`
	busy         = `{"error":"A build job is already running.","jobStatus":"running"}`
	succeeded    = `{"msg":"Build was successfull","buildExitCode":0,"childExitCode":0,"jobStatus":"success"}`
	notTaken     = `{"error":"The builder is shutting down.","msg":"Connect again when it is back.","jobStatus":"failed"}`
	noJobInTime  = `{"error":"No job was received within 30s.","msg":"Connect again and send it at once.","jobStatus":"failed"}`
	cancelledFor = `{"error":"The job was cancelled.","msg":"%s","jobStatus":"failed"}` // see heldBuilder
)

// notJSON is the answer to a message that is not JSON; it says where the error is.
func notJSON(where string) string {
	return fmt.Sprintf(`{"error":"Not a valid JSON","msg":%q,"jobStatus":"failed"}`, where)
}

// A fakeBuilder is a Builder of functions.
type fakeBuilder struct {
	build   func(ctx context.Context, request *schemas.Request, out io.Writer) schemas.Message
	healthy func(ctx context.Context) error // nil: it is
	places  int64                           // how many jobs there can be at once; 0: one
	taken   atomic.Int64
}

var _ Builder = (*fakeBuilder)(nil)

func (b *fakeBuilder) Acquire() (release func(), ok bool) {
	if b.taken.Add(1) > max(b.places, 1) {
		b.taken.Add(-1)
		return nil, false
	}
	return sync.OnceFunc(func() { b.taken.Add(-1) }), true
}

func (b *fakeBuilder) Start(ctx context.Context, request *schemas.Request, client string, release func()) Job {
	return &fakeJob{ctx: ctx, build: func(ctx context.Context, out io.Writer) schemas.Message {
		defer release()
		return b.build(ctx, request, out)
	}}
}

// Submit starts a job with the id "submitted", or returns a refusal.
func (b *fakeBuilder) Submit(request *schemas.Request, client string) (id string, refusal *schemas.Response) {
	release, ok := b.Acquire()
	if !ok {
		busy := schemas.Busy()
		return "", &busy
	}
	go func() {
		defer release()
		b.build(context.Background(), request, io.Discard)
	}()
	return "submitted", nil
}

// A fakeJob runs while somebody follows it.
type fakeJob struct {
	ctx   context.Context
	build func(ctx context.Context, out io.Writer) schemas.Message
	last  schemas.Message
}

func (j *fakeJob) Follow(_ context.Context, out io.Writer) error {
	j.last = j.build(j.ctx, out)
	return nil
}

func (j *fakeJob) Wait() schemas.Message { return j.last }

func (b *fakeBuilder) Ready(ctx context.Context) error { return b.Healthy(ctx) }

func (b *fakeBuilder) Healthy(ctx context.Context) error {
	if b.healthy == nil {
		return nil
	}
	return b.healthy(ctx)
}

// answer is a job's last message without a number.
func answer(r schemas.Response) schemas.Message {
	return schemas.Message{Response: &r, Time: time.Now()}
}

// printing is a builder whose jobs print a text and exit with a code.
func printing(text string, code int) *fakeBuilder {
	return &fakeBuilder{build: func(_ context.Context, _ *schemas.Request, out io.Writer) schemas.Message {
		if _, err := io.WriteString(out, text); err != nil {
			return answer(schemas.Unable("The log cannot be written.", err.Error()))
		}
		return answer(schemas.Exited(code))
	}}
}

// A heldBuilder has jobs that go on until their test ends them, or their context does.
type heldBuilder struct {
	fakeBuilder
	begun chan io.Writer // gets the writer of a job's output
	exit  chan int       // ends a job with a code
	ended chan error     // gets the cause of the end of a job's context
}

func newHeldBuilder() *heldBuilder {
	b := &heldBuilder{begun: make(chan io.Writer, 1), exit: make(chan int), ended: make(chan error, 1)}
	b.build = func(ctx context.Context, _ *schemas.Request, out io.Writer) schemas.Message {
		b.begun <- out
		select {
		case code := <-b.exit:
			return answer(schemas.Exited(code))
		case <-ctx.Done():
			b.ended <- context.Cause(ctx)
			return answer(schemas.Unable("The job was cancelled.", context.Cause(ctx).Error()))
		}
	}
	return b
}

// A fixture is a Server that answers requests as the program's does.
type fixture struct {
	t       *testing.T
	server  *Server
	limiter *connlimit.Listener
	connect func(ctx context.Context) (net.Conn, error)

	log await.Log // the server's

	mu      sync.Mutex
	refused []string // the reasons, in their order
}

// serve starts a server on a network in memory, for a test in a bubble.
func serve(t *testing.T, builder Builder, change ...func(*Options)) *fixture {
	t.Helper()
	return serveLimited(t, connlimit.MaxConns, builder, change...)
}

// serveLimited starts such a server, with a limit of its own for connections.
func serveLimited(t *testing.T, maxConns int, builder Builder, change ...func(*Options)) *fixture {
	t.Helper()
	listener := memnet.Listen("mem:1")
	f := serveOn(t, connlimit.Listen(listener, maxConns), func(l net.Listener) net.Listener { return l }, builder, change...)
	f.server.tcpInfo = memInfo
	f.connect = func(ctx context.Context) (net.Conn, error) { return dialMem(ctx, listener, socketBuffer) }
	return f
}

// serveTCP starts a server on the loopback address, for tests of what the kernel does.
func serveTCP(t *testing.T, builder Builder, change ...func(*Options)) *fixture {
	t.Helper()
	return serveTCPWith(t, func(l net.Listener) net.Listener { return l }, builder, change...)
}

func serveTCPWithTLS(t *testing.T, builder Builder, change ...func(*Options)) *fixture {
	t.Helper()
	certified := &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
	f := serveTCPWith(t, func(l net.Listener) net.Listener { return tls.NewListener(l, certified) }, builder, change...)
	plain := f.connect
	f.connect = func(ctx context.Context) (net.Conn, error) {
		conn, err := plain(ctx)
		return tls.Client(conn, &tls.Config{InsecureSkipVerify: true}), err
	}
	return f
}

func serveTCPWith(t *testing.T, wrap func(net.Listener) net.Listener, builder Builder, change ...func(*Options)) *fixture {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := serveOn(t, connlimit.Listen(listener, connlimit.MaxConns), wrap, builder, change...)
	f.connect = func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String())
	}
	return f
}

// serveTLS starts a server on a network in memory that speaks TLS.
func serveTLS(t *testing.T, builder Builder, change ...func(*Options)) *fixture {
	t.Helper()
	return serveTLSLimited(t, connlimit.MaxConns, builder, change...)
}

// serveTLSLimited starts such a server, with a limit of its own for connections.
func serveTLSLimited(t *testing.T, maxConns int, builder Builder, change ...func(*Options)) *fixture {
	t.Helper()
	listener := memnet.Listen("mem:1")
	certified := &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
	f := serveOn(t, connlimit.Listen(listener, maxConns), func(l net.Listener) net.Listener { return tls.NewListener(l, certified) }, builder, change...)
	f.server.tcpInfo = memInfo
	f.connect = func(ctx context.Context) (net.Conn, error) {
		conn, err := dialMem(ctx, listener, socketBuffer)
		if err != nil {
			return nil, err
		}
		client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		return client, client.HandshakeContext(ctx) // at once: the HTTP client would hold a lock, which stops the bubble's clock
	}
	return f
}

// certificate returns a certificate that nobody trusts.
func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	text, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{text}, PrivateKey: private}
}

// serveOn starts a server. wrap adds TLS between its limited connections and HTTP, or nothing.
func serveOn(t *testing.T, limiter *connlimit.Listener, wrap func(net.Listener) net.Listener, builder Builder, change ...func(*Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, limiter: limiter}
	options := Options{
		Commands:        []string{"nix", "sh"},
		RequestTimeout:  30 * time.Second,
		MaxRequestBytes: 1 << 20,
		ClientTimeout:   30 * time.Second,
		Refused:         f.noteRefusal,
		Page:            http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "page "+r.URL.Path) }),
	}
	for _, change := range change {
		change(&options)
	}
	log := slog.New(slog.NewTextHandler(&f.log, nil))
	f.server = NewServer(builder, options, log)
	var conns sync.WaitGroup
	httpServer := &http.Server{Handler: f.server, ConnContext: connlimit.WithConn, ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				conns.Add(1)
			case http.StateHijacked, http.StateClosed: // a session's, which the Server waits for, or ended
				conns.Done()
			}
		}}
	served := make(chan error, 1)
	go func() { served <- httpServer.Serve(wrap(limiter)) }()
	t.Cleanup(func() {
		httpServer.Close()
		f.server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("the server ends with %v", err)
		}
		conns.Wait()
	})
	return f
}

func (f *fixture) noteRefusal(reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refused = append(f.refused, reason)
}

// wantRefused checks the reasons that the server has reported so far.
func (f *fixture) wantRefused(want ...string) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if diff := cmp.Diff(want, f.refused); diff != "" {
		f.t.Errorf("refusals (-want +got):\n%s", diff)
	}
}

// A client is a WebSocket connection to a server.
type client struct {
	t *testing.T
	*websocket.Conn
}

// dial connects a client, which offers subprotocols.
func (f *fixture) dial(protocols ...string) *client {
	f.t.Helper()
	conn, err := f.connect(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return f.dialOver(conn, protocols...)
}

func (f *fixture) dialOver(conn net.Conn, protocols ...string) *client {
	f.t.Helper()
	ws, response := f.shake(conn, "localhost", nil, protocols...)
	if ws == nil {
		f.t.Fatalf("no WebSocket: %s", response.Status)
	}
	return &client{f.t, ws}
}

// shake asks for a WebSocket on a connection, and returns it and the answer.
func (f *fixture) shake(conn net.Conn, host string, header http.Header, protocols ...string) (*websocket.Conn, *http.Response) {
	f.t.Helper()
	f.t.Cleanup(func() { conn.Close() })
	dialer := websocket.Dialer{Subprotocols: protocols,
		NetDialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
	ws, response, err := dialer.DialContext(f.t.Context(), "ws://"+host+schemas.BuildPath, header)
	if err != nil && !errors.Is(err, websocket.ErrBadHandshake) {
		f.t.Fatal(err)
	}
	return ws, response
}

// dialContext connects to the server, whatever the address.
func (f *fixture) dialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	return f.connect(ctx)
}

// do sends a request and returns the answer, whose body is read.
func (f *fixture) do(request *http.Request) (response *http.Response, body string) {
	f.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: f.dialContext}
	response, err := transport.RoundTrip(request.WithContext(f.t.Context()))
	if err != nil {
		f.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return response, string(text)
}

// ask makes a request and returns the answer's status and body.
func (f *fixture) ask(method, path string) (status int, body string) {
	f.t.Helper()
	response, body := f.do(newRequest(f.t, method, path, nil, ""))
	return response.StatusCode, body
}

func newRequest(t *testing.T, method, path string, header http.Header, body string) *http.Request {
	t.Helper()
	request, err := http.NewRequest(method, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		request.Header = header
	}
	return request
}

func (c *client) send(text string) {
	c.t.Helper()
	if err := c.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

// next returns the next message, which must come.
func (c *client) next() string {
	c.t.Helper()
	_, data, err := c.ReadMessage()
	if err != nil {
		c.t.Fatal(err)
	}
	return string(data)
}

// story is all that a client is sent.
type story struct {
	messages []string
	code     int   // of the close frame; 0: there was none
	err      error // that came instead of one
}

// finish reads until the server closes the connection, for two days at most.
func (c *client) finish() (s story) {
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(48 * time.Hour)) // a bubble with a server that pings would never end
	for {
		_, data, err := c.ReadMessage()
		if closed, ok := errors.AsType[*websocket.CloseError](err); ok && closed.Code != websocket.CloseAbnormalClosure {
			s.code = closed.Code
			return s
		}
		if s.err = err; err != nil {
			return s
		}
		s.messages = append(s.messages, string(data))
	}
}

// inBackground sends what finish returns.
func (c *client) inBackground() <-chan story {
	ended := make(chan story, 1)
	go func() { ended <- c.finish() }()
	return ended
}

// check checks all that a client is sent.
func (s story) check(t *testing.T, code int, messages ...string) {
	t.Helper()
	if !slices.Equal(messages, s.messages) { // quicker, of many
		t.Errorf("messages (-want +got):\n%s", cmp.Diff(messages, s.messages))
	}
	if s.code != code {
		t.Errorf("close code %d, want %d; %v", s.code, code, s.err)
	}
}

// bubble runs a part of a test in a bubble of testing/synctest. Its clock advances only when all goroutines wait.
func bubble(t *testing.T, name string, test func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}

// elapse puts the clock of a bubble forward, which takes no time.
func elapse(d time.Duration) { time.Sleep(d) }

// eachForm runs a test for each form of the protocol, and forms runs it in a bubble.
func eachForm(t *testing.T, test func(t *testing.T, format schemas.Format)) {
	t.Run("document", func(t *testing.T) { test(t, schemas.Document) })
	t.Run("stack", func(t *testing.T) { test(t, schemas.Stack) })
}

func forms(t *testing.T, test func(t *testing.T, format schemas.Format)) {
	eachForm(t, func(t *testing.T, format schemas.Format) {
		synctest.Test(t, func(t *testing.T) { test(t, format) })
	})
}

// jobIn is a job in a form.
func jobIn(format schemas.Format, command string) string {
	if format == schemas.Stack {
		return fmt.Sprintf(`{"git_config":{"noclone":true},"build_options":{"command":%q},"cachix_config":{}}`, command)
	}
	return fmt.Sprintf(`{"git":{"noClone":true},"buildOptions":{"command":%q,"cachix":{"push":false}}}`, command)
}

// job is a job in the document's form.
func job() string { return jobIn(schemas.Document, "nix build") }

// inFormat returns a message of the document's form as it is sent in another one now.
func inFormat(format schemas.Format, message string) string {
	if format == schemas.Document {
		return message
	}
	if i := strings.Index(message, `"childExitCode"`); i >= 0 {
		end := strings.Index(message[i:], ",")
		message = message[:i] + message[i+end+1:]
	}
	return fmt.Sprintf(`%s,"timestamp":%d}`, strings.TrimSuffix(message, "}"), time.Now().UnixMilli())
}

// line is a line of output.
func line(text string) string { return string(schemas.Output(text).Encode()) }

// exited is the last message of a job that has ended with a code.
func exited(code int) string { return string(schemas.Exited(code).Encode()) }

// wantFree checks that a server on a network in memory, without other clients, accepts a client's job.
func wantFree(t *testing.T, f *fixture) {
	t.Helper()
	synctest.Wait()
	c := f.dial()
	c.send(`{}`)
	c.finish().check(t, websocket.CloseInvalidFramePayloadData, invalid("git: is missing; buildOptions: is missing"))
}
