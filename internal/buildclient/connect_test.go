package buildclient

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/termtest"
)

func TestParseAddress(t *testing.T) {
	const (
		notAnAddress = ` is not the address of a builder: give HOST:PORT, such as 127.0.0.1:3000, or a URL, such as wss://builder.example.com`
		noPassword   = "the address of a builder has no user name and no password: use a token"
	)
	for text, want := range map[string]string{
		"127.0.0.1:4500":                   "ws://127.0.0.1:4500/api/v1/build",
		"localhost:4500":                   "ws://localhost:4500/api/v1/build",
		"builder:3000":                     "ws://builder:3000/api/v1/build",
		"[::1]:3000":                       "ws://[::1]:3000/api/v1/build",
		"builder:3000/":                    "ws://builder:3000/api/v1/build",
		"builder:3000/api/v1/build":        "ws://builder:3000/api/v1/build",
		"builder:3000/api/v1/build/":       "ws://builder:3000/api/v1/build",
		"ws://127.0.0.1:3000/api/v1/build": "ws://127.0.0.1:3000/api/v1/build",
		"http://127.0.0.1:3000":            "ws://127.0.0.1:3000/api/v1/build",
		"https://builder.example.com":      "wss://builder.example.com/api/v1/build",
		"WSS://builder.example.com/x/y":    "wss://builder.example.com/x/y/api/v1/build",
		"https://example.com/x/":           "wss://example.com/x/api/v1/build",
		"http://builder:3000?a=b":          `"http://builder:3000?a=b"` + notAnAddress,
		"http://builder:3000/#jobs":        `"http://builder:3000/#jobs"` + notAnAddress,
		"":                                 `""` + notAnAddress,
		"builder":                          `"builder"` + notAnAddress,
		"builder.example.com":              `"builder.example.com"` + notAnAddress,
		"3000":                             `"3000"` + notAnAddress,
		":3000":                            `":3000"` + notAnAddress,
		"ws://":                            `"ws://"` + notAnAddress,
		"ws://:3000":                       `"ws://:3000"` + notAnAddress,
		"builder:":                         `"builder:"` + notAnAddress,
		"builder:http":                     `"builder:http"` + notAnAddress,
		"builder:0":                        `"builder:0"` + notAnAddress,
		"builder:65536":                    `"builder:65536"` + notAnAddress,
		"ftp://127.0.0.1":                  `"ftp://127.0.0.1"` + notAnAddress,
		"file:///run/builder":              `"file:///run/builder"` + notAnAddress,
		"a b:3000":                         `"a b:3000"` + notAnAddress,
		"\x1b[2J:3000":                     `"\x1b[2J:3000"` + notAnAddress,
		"http://me:secret@builder:3000":    noPassword,
		"me@builder:3000":                  noPassword,
		"http://me:sec%ret@builder":        noPassword, // which cannot be parsed
	} {
		u, err := ParseAddress(text)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = u.String()
		}
		if got != want {
			t.Errorf("%q:\n got %s\nwant %s", text, got, want)
		}
	}
}

// TestUnauthorized connects to a builder that needs a token.
func TestUnauthorized(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	defer server.Close()
	u := addressOf(t, server)
	const hint = "\nhint: set --token-file or IGLU_TOKEN_FILE to a file with the builder's token"
	for token, want := range map[string]string{
		"":              u.String() + " needs a token, and none was given" + hint,
		"another-token": u.String() + " needs another token: the given one is not the builder's" + hint,
	} {
		var stdout bytes.Buffer
		got := <-submit(t, Options{URL: u, Token: token, Stdout: &stdout})
		if got.code != ExitClient || got.err == nil || got.err.Error() != want {
			t.Errorf("token %q: exit code %d, %v, want %s", token, got.code, got.err, want)
		}
	}
}

// TestNotABuilder connects to servers of another kind, and with the wrong scheme. All commands say the same.
func TestNotABuilder(t *testing.T) {
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(http.StatusBadGateway)
		io.WriteString(w, "<html>\nBad Gateway\n</html>")
	})
	plain, encrypted, gone := httptest.NewServer(page), httptest.NewUnstartedServer(page), httptest.NewServer(page)
	encrypted.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients that do not trust it
	encrypted.StartTLS()
	gone.Close()
	moved := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		http.Redirect(w, r, encrypted.URL+r.URL.Path+"?token", http.StatusMovedPermanently)
	}))
	defer moved.Close()
	defer plain.Close()
	defer encrypted.Close()
	hostOf := func(s *httptest.Server) string { return s.Listener.Addr().String() }
	for address, want := range map[string]string{
		"http://" + hostOf(plain):      "is not a builder: it answers 502 Bad Gateway",
		"https://" + hostOf(plain):     "hint: if the builder has no certificate, its address begins with http:// or ws://",
		"http://" + hostOf(encrypted):  "is not a builder: it answers 400 Bad Request\nhint: the server speaks TLS: its address begins with https:// or wss://",
		"https://" + hostOf(encrypted): "hint: the host in the address must be one of the certificate's; SSL_CERT_FILE is a file with certificates to trust",
		"http://" + hostOf(moved): "is not a builder: it answers 301 Moved Permanently\nhint: it redirects to https://" + hostOf(encrypted) +
			": if the builder is there, give that address",
		"http://" + hostOf(gone): "dial tcp " + hostOf(gone) + ": connect: connection refused\nhint: start one with 'iglu-builder serve'",
	} {
		u, err := ParseAddress(address)
		if err != nil {
			t.Fatal(err)
		}
		o := Options{URL: u, Job: []byte("{}"), Stdout: io.Discard, Stderr: io.Discard}
		for command, do := range map[string]func() error{
			"build":    func() error { _, err := Submit(t.Context(), o); return err },
			"detached": func() error { _, _, err := Detach(t.Context(), o); return err },
			"watch":    func() error { _, err := Watch(t.Context(), o, "a2"); return err },
			"cancel":   func() error { return Cancel(t.Context(), o, "a2") },
			"log":      func() error { return ShowLog(t.Context(), o, KeptLog{Job: "a2"}) },
		} {
			err := do()
			if err == nil || !strings.HasSuffix(err.Error(), want) || strings.Count(err.Error(), "://"+u.Host) != 1 {
				t.Errorf("%s of %s: %v", command, address, err)
			}
		}
	}
}

// TestJobIsNamedOnce checks that people read the job's id once, before the log, although the first event and the
// log's first line both have it.
func TestJobIsNamedOnce(t *testing.T) {
	const page = "https://builder.example.com/jobs/a2"
	url := startBuilder(t, true, func(b *builderConn) {
		response := schemas.Accepted()
		b.send(schemas.Message{Response: &response, Event: schemas.AppendEvent(nil, schemas.JobEvent{ID: "a2", URL: page})})
		b.lines("iglu: job a2 "+page, "a line")
		b.end(schemas.Exited(0), nil)
		b.untilGone()
	})
	const lines = "iglu: job a2 " + page + "\na line\n"

	var stdout, stderr bytes.Buffer
	<-submit(t, Options{URL: url, Stdout: &stdout, Stderr: &stderr})
	if stdout.String() != lines || strings.Contains(stderr.String(), "a2") {
		t.Errorf("plain: standard output %q, want %q; standard error %q", &stdout, lines, &stderr)
	}

	term := termtest.Open(t, 80, 10)
	<-submit(t, Options{URL: url, Stdout: term.TTY, now: newClock().Now})
	term.Want(lines + "\nBuilt in 0.0s")

	stdout.Reset()
	<-submit(t, Options{URL: url, Stdout: &stdout, JSON: true})
	first, _, _ := strings.Cut(stdout.String(), "\n")
	if !strings.HasSuffix(first, `"event":{"type":"job","id":"a2","url":"`+page+`"}}`) {
		t.Errorf("JSON: the first message is %s", first)
	}
}
