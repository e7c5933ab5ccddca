package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"

	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/schemas"
)

// The tests of this package drive the whole server, as a client does, with the real
// engine, real Nix and real git servers behind it. The server runs in the test's own
// process, so that the race detector and the leak checks see it.

// world is what all tests share: made once, because it takes seconds.
var world struct {
	program  string // a static build of this package, which runs in the containers
	image    string // the job image
	stateDir string // of all servers
	response map[schemas.Form]*jsonschema.Schema
	messages map[messageKind]*jsonschema.Schema // of docs/asyncapi.yaml
	git      gitWorld
	server   *server // for tests that need no settings of their own
}

// Secrets of the jobs. No message and no line of a server's log may hold one; see
// checkSecrets.
const (
	gitPassword = "hunter2-f4a1c0de-9b7e"
	apiKey      = "apikey-0197178f-b4f3-7000"
)

// signingKey is the base64 of an Ed25519 key as jobs are given it.
var signingKey = base64.StdEncoding.EncodeToString(ed25519.NewKeyFromSeed([]byte("the signing key of all the tests")))

// parallelTests is how many tests run at once of those that may: more than there are CPUs,
// because they wait most of the time.
const parallelTests = 5

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	folder, err := os.MkdirTemp("", "iglu-test-")
	if err != nil {
		return complain(err)
	}
	defer os.RemoveAll(folder)
	if err := makeWorld(folder); err != nil {
		return complain(err)
	}
	defer world.git.stop()
	flag.Set("test.parallel", strconv.Itoa(parallelTests)) // which the command line may override
	code := m.Run()
	if err := errors.Join(world.server.stop(), stopSites()); err != nil {
		return complain(err)
	}
	world.git.stop()
	if err := goleak.Find(); err != nil && code == 0 {
		return complain(err)
	}
	return code
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, "test:", err)
	return 1
}

func makeWorld(folder string) (err error) {
	if world.image = os.Getenv("IGLU_TEST_JOB_IMAGE"); world.image == "" {
		return errors.New("IGLU_TEST_JOB_IMAGE is not set: run 'make test', which makes an image, or set it to one with Nix")
	}
	world.program = filepath.Join(folder, "iglu-builder")
	world.stateDir = filepath.Join(folder, "state")
	build := exec.Command("go", "build", "-o", world.program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the program: %w\n%s", err, output)
	}
	world.response = make(map[schemas.Form]*jsonschema.Schema)
	for form, text := range map[schemas.Form][]byte{schemas.Document: schemas.ResponseSchema, schemas.Stack: schemas.StackResponseSchema} {
		if world.response[form], err = compileSchema(text); err != nil {
			return err
		}
	}
	if world.messages, err = compileAsyncAPI(); err != nil {
		return err
	}
	if err := world.git.start(filepath.Join(folder, "git")); err != nil {
		return err
	}
	world.server, err = startServer(func(*settings) {})
	return err
}

func compileSchema(text []byte) (*jsonschema.Schema, error) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("schema.json", document); err != nil {
		return nil, err
	}
	return compiler.Compile("schema.json")
}

// checkSecrets returns an error if text holds a secret of a job.
func checkSecrets(text string) error {
	for _, secret := range append(world.git.keyLines, gitPassword, apiKey, signingKey) {
		if strings.Contains(text, secret) {
			return fmt.Errorf("a secret (%.6s…) stands in: %.300s", secret, text)
		}
	}
	return nil
}

// A server is a running builder.
type server struct {
	address  string
	instance string
	stateDir string
	host     string // where its containers are looked for, as in DOCKER_HOST
	image    string // that its jobs run in
	log      logBuffer
	cancel   context.CancelFunc
	pid      int    // of its process, where it has one of its own
	kill     func() // ends that without a word
	ended    chan error
}

// logBuffer is a server's log.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

var addrInLog = regexp.MustCompile(`msg=listening addr=(\S+)`)

// startServer starts a builder with an instance name of its own, which may run some
// more programs than Nix, so that tests can look around in containers.
func startServer(change func(*settings)) (*server, error) {
	var s settings
	s.register(pflag.NewFlagSet("", pflag.ContinueOnError))
	s.listen = "127.0.0.1:0"
	s.jobImage = world.image
	s.instance = "test-" + strings.ToLower(rand.Text()[:10])
	s.stateDir = world.stateDir
	s.store = orchestrator.StoreEphemeral // most tests are to meet the image's own store
	s.allowedCommands = append(s.allowedCommands, "sh", "seq", "env", "sleep", "printf", "no-such-program")
	change(&s)

	ctx, cancel := context.WithCancel(context.Background())
	srv := &server{instance: s.instance, stateDir: s.stateDir, image: s.jobImage, cancel: cancel, ended: make(chan error, 1)}
	go labelled(ctx, s.instance, func(ctx context.Context) {
		srv.ended <- serve(ctx, ctx, s, world.program, s.logger(&srv.log))
	})
	err := poll(30*time.Second, func() bool {
		match := addrInLog.FindStringSubmatch(srv.log.String())
		if match != nil {
			srv.address = match[1]
		}
		return match != nil
	})
	return srv, err
}

// serverWith is startServer for one test.
func serverWith(t *testing.T, change func(*settings)) *server {
	t.Helper()
	srv, err := startServer(change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.stop(); err != nil {
			t.Error(err)
		}
	})
	return srv
}

// end ends the server, which keeps what it keeps for its next life.
func (s *server) end(t *testing.T) {
	t.Helper()
	s.cancel()
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
	s.ended <- nil // for the clean-up
}

// stop ends the server and checks what it leaves: no container, no secret in its
// log. The volume and the network, which it keeps for its next life, are removed.
func (s *server) stop() error {
	s.cancel()
	err := <-s.ended
	if left := s.containers(); len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("containers left on the engine: %v", left))
	}
	removeAll(s.host, s.instance)
	return errors.Join(err, checkSecrets(s.log.String()), s.checkKeptLogs())
}

// checkKeptLogs looks for secrets in what the server has kept of jobs.
func (s *server) checkKeptLogs() error {
	names, err := filepath.Glob(filepath.Join(world.stateDir, s.instance, "logs", "*"))
	for _, name := range names {
		text, readErr := os.ReadFile(name)
		err = errors.Join(err, readErr, checkSecrets(string(text)))
	}
	records, readErr := os.ReadFile(filepath.Join(world.stateDir, s.instance, "history.db"))
	if errors.Is(readErr, fs.ErrNotExist) { // of a process, which has a folder of its own
		return err
	}
	return errors.Join(err, readErr, checkSecrets(string(records)))
}

func (s *server) containers() []string { return s.onEngine("container") }

// withoutHead returns a job's lines without the first two of all that come to a command, and
// checks those: which image and which Nix it is.
func withoutHead(t *testing.T, s *server, lines []string) []string {
	t.Helper()
	lines = withoutWaiting(lines)
	if len(lines) < 2 || !strings.HasPrefix(lines[0], "iglu: job image "+s.image+", sha256:") || !nixLine.MatchString(lines[1]) {
		t.Errorf("the first lines do not tell image and Nix: %q", lines)
		return lines
	}
	return lines[2:]
}

// waitingLine is in a job's log where the container of the one before is not gone yet.
const waitingLine = "iglu: waiting for the last job's container and store to be put away"

func withoutWaiting(lines []string) []string {
	return slices.DeleteFunc(lines, func(line string) bool { return line == waitingLine })
}

var nixLine = regexp.MustCompile(`^iglu: Nix \d+\.\d+`)

// wantNoContainers checks that a server has none, or soon has none.
func wantNoContainers(t *testing.T, s *server) {
	t.Helper()
	if err := poll(10*time.Second, func() bool { return len(s.containers()) == 0 }); err != nil {
		t.Errorf("containers left: %v", s.containers())
	}
}

// onEngine returns what the server has on its engine of a kind: container, volume or network.
func (s *server) onEngine(kind string) []string {
	found, err := listed(s.host, kind, s.instance)
	if err != nil {
		return []string{err.Error()}
	}
	return found
}

// get requests a path over plain HTTP.
func (s *server) get(t *testing.T, method, path string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var buf bytes.Buffer
	buf.ReadFrom(response.Body)
	return response.StatusCode, buf.String()
}

// A client is a connection to a server.
type client struct {
	t    *testing.T
	conn *websocket.Conn
	form schemas.Form // that it speaks; see forms_test.go
	// events is true where it offers the subprotocol for them; see events_test.go. Its
	// messages are returned as they are.
	events bool
}

func connect(t *testing.T, s *server) *client {
	t.Helper()
	conn, _, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+s.address+"/api/v1/build", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t: t, conn: conn}
}

func (c *client) send(job string) {
	c.t.Helper()
	if err := c.conn.WriteMessage(websocket.TextMessage, []byte(job)); err != nil {
		c.t.Fatal(err)
	}
}

// messageTimeout is how long a test waits for the next message.
const messageTimeout = 2 * time.Minute

// read returns the next message, which must be one of the published schema and hold
// no secret, or the close code that came instead. A message of today's form is returned as
// the document has it.
func (c *client) read() (message string, closeCode int) {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(messageTimeout))
	kind, data, err := c.conn.ReadMessage()
	if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
		return "", closed.Code
	}
	if err != nil || kind != websocket.TextMessage {
		c.t.Fatalf("read a message: kind %d, %v", kind, err)
	}
	asDocument, err := c.checkMessage(data)
	if err := errors.Join(err, checkSecrets(string(data))); err != nil {
		c.t.Fatalf("message %.300s: %v", data, err)
	}
	return string(asDocument), 0
}

// next is read for a message that must come.
func (c *client) next() string {
	c.t.Helper()
	message, code := c.read()
	if code != 0 {
		c.t.Fatalf("the connection was closed with %d", code)
	}
	return message
}

// waitFor reads on until a line of the job's output holds text.
func (c *client) waitFor(text string) {
	c.t.Helper()
	for message := c.next(); !strings.Contains(message, text); message = c.next() {
		if !strings.Contains(message, `"stdout"`) && !strings.Contains(message, `"starting"`) {
			c.t.Fatalf("no line %q before %s", text, message)
		}
	}
}

// result is all that a client is sent.
type result struct {
	lines     []string // of output
	messages  []string // all others
	closeCode int
}

// inBackground sends what finish returns.
func (c *client) inBackground() <-chan result {
	ended := make(chan result, 1)
	go func() {
		defer close(ended) // also when the test is given up
		ended <- c.finish()
	}()
	return ended
}

// finish reads until the server closes the connection.
func (c *client) finish() result {
	c.t.Helper()
	var r result
	for {
		message, code := c.read()
		if code != 0 {
			r.closeCode = code
			c.conn.Close()
			return r
		}
		var response schemas.Response
		if err := json.Unmarshal([]byte(message), &response); err != nil {
			c.t.Fatal(err)
		}
		if response.Stdout != nil {
			r.lines = append(r.lines, *response.Stdout)
		} else {
			r.messages = append(r.messages, message)
		}
	}
}

// A job is a request, as the tests write it.
type job = schemas.Request

// command is a job that runs a command without a repository.
func command(line string) job {
	return job{Git: schemas.Git{NoClone: true}, BuildOptions: schemas.BuildOptions{Command: line}}
}

// do sends a job to a server and returns all that comes back.
func do(t *testing.T, s *server, j job) result {
	t.Helper()
	return doIn(t, schemas.Document, s, j)
}

const (
	accepted  = `{"msg":"Start Building","jobStatus":"starting"}`
	succeeded = `{"msg":"Build was successfull","buildExitCode":0,"childExitCode":0,"jobStatus":"success"}`
	busy      = `{"error":"A build job is already running.","jobStatus":"running"}`
)

func exited(code int) string {
	return fmt.Sprintf(`{"error":"Something went wrong while building. Builder exited with error code %d",`+
		`"buildExitCode":%d,"childExitCode":%d,"jobStatus":"failed"}`, code, code, code)
}

// wantExit checks that a job was accepted and ended with an exit code.
func wantExit(t *testing.T, r result, code int) {
	t.Helper()
	last, closeCode := exited(code), websocket.CloseInternalServerErr
	if code == 0 {
		last, closeCode = succeeded, websocket.CloseNormalClosure
	}
	if !slices.Equal(r.messages, []string{accepted, last}) || r.closeCode != closeCode {
		t.Errorf("want exit code %d and close code %d, got %v, close code %d, lines:\n%s",
			code, closeCode, r.messages, r.closeCode, strings.Join(r.lines, "\n"))
	}
}

// wantLine checks that a line of the output holds text.
func wantLine(t *testing.T, r result, text string) {
	t.Helper()
	if !slices.ContainsFunc(r.lines, func(line string) bool { return strings.Contains(line, text) }) {
		t.Errorf("no line holds %q:\n%s", text, strings.Join(r.lines, "\n"))
	}
}

// poll waits until a condition holds.
func poll(timeout time.Duration, holds func() bool) error {
	for end := time.Now().Add(timeout); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("still not so after %s", timeout)
		}
	}
	return nil
}
