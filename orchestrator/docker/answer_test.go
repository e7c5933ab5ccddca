package docker

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"iglu.sh/builder/images"
	"iglu.sh/builder/test/kit/fakeengine"
)

// A longAnswer is an engine that answers one call with a long string between two texts. Its other answers are empty.
type longAnswer struct {
	path, begin, end string // path is the end of the call's
	size             int    // of the string, in bytes
	sent             atomic.Int64
}

func (a *longAnswer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", "1.47")
	w.Header().Set("Content-Type", "application/json")
	if !strings.HasSuffix(r.URL.Path, a.path) {
		io.WriteString(w, "{}")
		return
	}
	io.WriteString(w, a.begin)
	part := strings.Repeat("x", min(a.size, 1<<20))
	for n, err := 0, error(nil); a.sent.Load() < int64(a.size) && err == nil; a.sent.Add(int64(n)) {
		n, err = io.WriteString(w, part)
	}
	io.WriteString(w, a.end)
}

// behindAgent returns the builder's Engine for an engine behind an agent.
func behindAgent(t *testing.T, engine http.Handler) *Engine {
	t.Helper()
	server := httptest.NewServer(engine)
	t.Cleanup(server.Close)
	d, err := New(Options{Host: "tcp://agent.invalid:2376", Instance: "test", Image: fakeengine.ImageRef, Pull: images.PullNever,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
		}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// Calls with which an engine can send a long string.
var longAnswers = map[string]struct {
	path, begin, end string
	call             func(ctx context.Context, d *Engine) error
}{
	"name":    {"/info", `{"Name":"`, `"}`, func(ctx context.Context, d *Engine) error { _, err := d.Info(ctx); return err }},
	"ID":      {"/info", `{"ID":"`, `"}`, func(ctx context.Context, d *Engine) error { _, err := d.Info(ctx); return err }},
	"version": {"/version", `{"Os":"`, `"}`, func(ctx context.Context, d *Engine) error { _, err := d.Info(ctx); return err }},
	"list":    {"/containers/json", `[{"Id":"`, `"}]`, func(ctx context.Context, d *Engine) error { _, err := d.List(ctx); return err }},
	"image": {"/recorded:1/json", `{"Id":"`, `"}`, func(ctx context.Context, d *Engine) error {
		_, err := d.Image(ctx, func(string) {})
		return err
	}},
}

// TestLongAnswer has an engine whose answers never end, as far as the builder reads.
func TestLongAnswer(t *testing.T) {
	for _, name := range []string{"name", "list"} {
		t.Run(name, func(t *testing.T) {
			test := longAnswers[name]
			engine := &longAnswer{path: test.path, begin: test.begin, end: test.end, size: 2 * maxAnswer}
			if err := test.call(t.Context(), behindAgent(t, engine)); err == nil || !strings.Contains(err.Error(), "the answer has more than 16MiB") {
				t.Errorf("after %d bytes: %.300v", engine.sent.Load(), err)
			}
		})
	}
}

// TestLongName has an engine with names that are too long to be kept.
func TestLongName(t *testing.T) {
	for name, test := range longAnswers {
		t.Run(name, func(t *testing.T) {
			engine := &longAnswer{path: test.path, begin: test.begin, end: test.end, size: maxName + 1}
			err := test.call(t.Context(), behindAgent(t, engine))
			if name != "list" && (err == nil || !strings.Contains(err.Error(), "a name, an ID or a digest of more than 256 bytes")) {
				t.Errorf("%.300v", err)
			}
		})
	}
}

// TestLongHeader has an engine with a long version of its API, which is in a header.
func TestLongHeader(t *testing.T) {
	d := behindAgent(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Api-Version", strings.Repeat("1", 2*maxHeader))
	}))
	if _, err := d.Info(t.Context()); err == nil || !strings.Contains(err.Error(), "server response headers exceeded") {
		t.Errorf("%.300v", err)
	}
}

// TestLongHeaderOfStream attaches to a container. The header of the answer is long, or what comes after it is.
func TestLongHeaderOfStream(t *testing.T) {
	long := strings.Repeat("x", 2*maxHeader)
	for answer, isRefused := range map[string]bool{
		"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\nConnection: Upgrade\r\nX: " + long + "\r\n\r\n": true,
		"HTTP/1.1 101 " + long + "\r\n\r\n":                                           true,
		"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n" + long: false,
	} {
		d := behindAgent(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "/attach") {
				return
			}
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			io.WriteString(conn, answer)
		}))
		output, err := (&container{engine: d, id: "some"}).attach(t.Context())
		if !isRefused && err == nil {
			var n int64
			n, err = io.Copy(io.Discard, output.Reader)
			output.Close()
			if n != int64(len(long)) {
				t.Errorf("%d bytes of the stream have come, %v", n, err)
			}
		}
		if (err != nil) != isRefused || isRefused && !strings.Contains(err.Error(), "the answer's header has more than 64KiB") {
			t.Errorf("of %.40q: %.300v", answer, err)
		}
	}
}
