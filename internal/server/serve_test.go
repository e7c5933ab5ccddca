package server

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"iglu.sh/builder/wsapi"
)

// TestLargeHeaders sends headers of several sizes. Anyone can send them, so large ones must not take memory.
func TestLargeHeaders(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	api := wsapi.NewServer(nil, wsapi.Options{}, log)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serveHTTP(ctx, listener, api, func() {}, log) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		api.Close()
	}()
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

// TestHostNetwork sets networks of jobs: one of them needs a warning.
func TestHostNetwork(t *testing.T) {
	for network, want := range map[string]bool{"host": true, "": false, "none": false, "jobs": false} {
		var log bytes.Buffer
		(&Settings{JobNetwork: network}).warnOfHost(slog.New(slog.NewTextHandler(&log, nil)))
		if got := strings.Contains(log.String(), "IGLU_JOB_NETWORK"); got != want {
			t.Errorf("%q: %s", network, log.String())
		}
	}
}
