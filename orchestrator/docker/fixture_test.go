package docker

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker/docker/client"
	"go.uber.org/goleak"

	"iglu.sh/builder/images"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/test/kit/await"
	"iglu.sh/builder/test/kit/fakeengine"
)

// TestMain removes the settings of the person who runs the tests: the address of an engine, and credentials for
// registries.
func TestMain(m *testing.M) {
	for _, name := range []string{client.EnvOverrideHost, client.EnvOverrideAPIVersion, client.EnvOverrideCertPath, client.EnvTLSVerify} {
		os.Unsetenv(name)
	}
	os.Setenv("DOCKER_CONFIG", "/nonexistent")
	goleak.VerifyTestMain(m)
}

// A fixture is an Engine of the instance "test" for an engine with recorded answers. A test can make the calls of that
// engine fail; see package fakeengine. A fixture is created in a bubble of testing/synctest, so waiting takes no time.
type fixture struct {
	*Engine
	fake   *fakeengine.Engine
	podman bool // it has Podman's words
	log    *await.Log
	sent   *requestLog
}

// bubble runs a test in a bubble of its own, on an engine with the recorded answers of one.
func bubble(t *testing.T, recording string, change func(*Options), test func(t *testing.T, f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newFixture(t, recording, change)) })
}

// both runs a test on the recorded answers of Docker and on those of Podman.
func both(t *testing.T, change func(*Options), test func(t *testing.T, f *fixture)) {
	t.Helper()
	for _, recording := range []string{fakeengine.Docker, fakeengine.Podman} {
		t.Run(recording, func(t *testing.T) {
			t.Parallel()
			bubble(t, recording, change, test)
		})
	}
}

func newFixture(t *testing.T, recording string, change func(*Options)) *fixture {
	t.Helper()
	f := &fixture{fake: fakeengine.Start(t, recording), podman: recording == fakeengine.Podman, log: new(await.Log), sent: new(requestLog)}
	options := Options{
		Host: "unix:///run/docker.sock", Instance: "test", Image: fakeengine.ImageRef, Pull: images.PullMissing,
		Program: programFile(t, programText), Sandbox: SandboxAuto, Dial: f.dial,
	}
	if change != nil {
		change(&options)
	}
	f.Engine = f.builder(t, options)
	return f
}

// builder returns another builder's Engine on the same engine.
func (f *fixture) builder(t *testing.T, options Options) *Engine {
	t.Helper()
	d, err := New(options, slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{ReplaceAttr: withoutTime})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// programText is the program that the builder puts into containers.
const programText = "a program"

func programFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "iglu-builder")
	if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// A requestLog is what was sent to the engine, request by request.
type requestLog struct {
	latency atomic.Int64 // a time.Duration, before each request

	mu  sync.Mutex
	all []string
}

func (f *fixture) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := f.fake.Dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &loggedConn{Conn: c, log: f.sent}, nil
}

// A loggedConn is a connection whose requests are logged.
type loggedConn struct {
	net.Conn
	log *requestLog
	at  int // of the latest request in the log
}

var requestLine = regexp.MustCompile(`^([A-Z]+) (?:/v[0-9.]+)?(/\S*) HTTP/1\.1\r\n`)

// Write relies on that a request's head is written at once, and its body behind it.
func (c *loggedConn) Write(p []byte) (int, error) {
	isNew := requestLine.Match(p)
	if isNew {
		time.Sleep(time.Duration(c.log.latency.Load()))
	}
	c.log.mu.Lock()
	if isNew {
		c.at = len(c.log.all)
		c.log.all = append(c.log.all, "")
	}
	c.log.all[c.at] += string(p)
	c.log.mu.Unlock()
	return c.Conn.Write(p)
}

// find calls a function with the method and the path, without the API's version, of each request
// that matches a pattern, in order, and with its body.
func (l *requestLog) find(pattern string, found func(line, body string)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	matches := regexp.MustCompile("^(" + pattern + ")$")
	for _, request := range l.all {
		m := requestLine.FindStringSubmatch(request)
		if line := m[1] + " " + m[2]; matches.MatchString(line) {
			_, body, _ := strings.Cut(request, "\r\n\r\n")
			found(line, body)
		}
	}
}

// requests returns the method and the path of each request that matches a pattern, without IDs.
func (f *fixture) requests(pattern string) (lines []string) {
	f.sent.find(pattern, func(line, _ string) { lines = append(lines, plain(line)) })
	return lines
}

// body returns the body of the first request that matches a pattern.
func (f *fixture) body(pattern string) (first string) {
	f.sent.find(pattern, func(_, body string) {
		if first == "" {
			first = strings.TrimSpace(body)
		}
	})
	return first
}

// left returns what is on the engine.
func (f *fixture) left() string { return plain(strings.Join(f.fake.Left(), ", ")) }

var (
	ids      = regexp.MustCompile(`\b0{10,}[0-9a-f]+\b`)
	programs = regexp.MustCompile(`iglu-builder-test-program-[0-9a-f]{12}\b`)
)

// plain returns a text without IDs and digests.
func plain(text string) string {
	return programs.ReplaceAllString(ids.ReplaceAllString(text, "ID"), "PROGRAM")
}

// told returns the content of an error: how the job ends, the message for its client, and in brackets the call of the
// engine that failed.
func messageOf(err error) string {
	failure, ok := err.(*engine.Failure)
	switch {
	case err == nil:
		return ""
	case !ok:
		return plain(err.Error())
	}
	text := failure.What + " " + failure.Advice
	if failure.End != "" {
		text = string(failure.End) + ": " + text
	}
	if failure.Call != "" {
		text += " [" + failure.Call + "]"
	}
	return plain(text)
}

func wantTold(t *testing.T, err error, want string) {
	t.Helper()
	if got := messageOf(err); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// failedTo returns the result of told for a call that failed for a reason.
func failedTo(call, why string) string {
	return fmt.Sprintf("The container engine failed to %s: %s. If a setting of the builder is not the cause, its log and the engine's say more. [%s]", call, why, call)
}

// stoppedAnswering returns the result of told for a call whose connection was lost.
func stoppedAnswering(call string) string {
	return fmt.Sprintf("engine-gone: The container engine stopped answering when it was asked to %s. Send the job again when it is back. [%s]", call, call)
}

const (
	noAnswer = "engine-gone: The container engine does not answer. Start it, or set DOCKER_HOST to where it listens. [answer]"
	// says is the error of a call that fakeengine has been told to answer with a status.
	says = "Error response from daemon: the test says so"
)

// callAt names the nth call of a kind.
func callAt(kind string, nth int) fakeengine.Call { return fakeengine.CallAt("", kind, nth) }

// wantTook checks how long something took that began at a time.
func wantTook(t *testing.T, begun time.Time, want time.Duration) {
	t.Helper()
	if took := time.Since(begun).Truncate(time.Millisecond); took != want {
		t.Errorf("it took %s, want %s", took, want)
	}
}

func wantEqual[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\ngot  %v\nwant %v", what, got, want)
	}
}

func wantAll(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\ngot  %q\nwant %q", what, got, want)
	}
}

// spec is a container with no store.
func spec(name string) engine.Spec {
	return engine.Spec{Name: name, Image: fakeengine.ImageRef, Memory: 1 << 30, CPUs: 1, PIDs: 100}
}

// create makes a container.
func (f *fixture) create(t *testing.T, name string) engine.Container {
	t.Helper()
	c, err := f.Create(t.Context(), spec(name))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// start makes a container that runs a function, and starts it.
func (f *fixture) start(t *testing.T, run func(p *fakeengine.Process) int) (engine.Container, engine.Stream) {
	t.Helper()
	f.fake.Run = run
	c := f.create(t, "one")
	s, err := c.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return c, s
}
