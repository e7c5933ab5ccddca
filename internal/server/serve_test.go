package server

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/test/kit/await"
	"iglu.sh/builder/wsapi"
)

// serveOn answers requests without a builder until stop is called.
func serveOn(t *testing.T, listener net.Listener, log *slog.Logger) (stop func()) {
	t.Helper()
	api := wsapi.NewServer(nil, wsapi.Options{}, log)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serveHTTP(ctx, listener, api, func() {}, log) }()
	return func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		api.Close()
	}
}

// TestLargeHeaders sends headers of several sizes. Anyone can send them, so large ones must not take memory.
func TestLargeHeaders(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer serveOn(t, listener, slog.New(slog.DiscardHandler))()
	transport := &http.Transport{DisableKeepAlives: true}
	for size, want := range map[int]int{maxHeader / 2: http.StatusOK, 2 * maxHeader: http.StatusRequestHeaderFieldsTooLarge} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+listener.Addr().String()+"/livez", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Cookie", strings.Repeat("x", size))
		response, err := transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%d bytes: %s", size, response.Status)
		}
	}
}

// TestHandshakes has clients that fail in the handshake of TLS: one says nothing, as a load balancer does every few seconds
// to see whether the port is open, and one does not speak TLS. Neither is a warning.
func TestHandshakes(t *testing.T) {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	text := new(await.Log)
	log := slog.New(slog.NewTextHandler(text, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: withoutTime}))
	cert, key := filepath.Join(t.TempDir(), "cert"), filepath.Join(t.TempDir(), "key")
	writeCertificate(t, cert, key, 1)
	listener, err := withTLS(plain, cert, key, log)
	if err != nil {
		t.Fatal(err)
	}
	defer serveOn(t, listener, log)()
	for _, client := range []struct{ says, want string }{
		{"", `level=DEBUG msg="http: TLS handshake error from \S+: EOF"`},
		{"SSH-2.0-client\r\n", `level=INFO msg="http: TLS handshake error from \S+: tls: first record does not look like a TLS handshake"`},
	} {
		conn, err := net.Dial("tcp", plain.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(client.says)); err != nil {
			t.Error(err)
		}
		conn.(*net.TCPConn).CloseWrite()
		if err := text.Await(time.Minute, regexp.MustCompile(client.want).MatchString); err != nil {
			t.Errorf("%s: %v", client.want, err)
		}
		conn.Close()
	}
}

// TestHostNetwork sets networks of jobs: one of them needs a warning.
func TestHostNetwork(t *testing.T) {
	for network, want := range map[string]bool{"host": true, "": false, "none": false, "jobs": false} {
		var log bytes.Buffer
		(&Settings{JobNetwork: network}).warnOfSettings(slog.New(slog.NewTextHandler(&log, nil)))
		if got := strings.Contains(log.String(), "IGLU_JOB_NETWORK"); got != want {
			t.Errorf("%q: %s", network, log.String())
		}
	}
}
