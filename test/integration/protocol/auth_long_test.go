//go:build integration && long

package protocol

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

// TestNames calls servers with different host names. A server without a token answers only to names that cannot be
// registered on the internet.
func TestNames(t *testing.T) {
	open := fixture.ServerWith(t, func(s *server.Settings) { s.AllowedOrigins = []string{"https://ui.example.com"} })
	wide := fixture.ServerWith(t, func(s *server.Settings) { s.Listen = "0.0.0.0:0" })
	locked := fixture.ServerWith(t, func(s *server.Settings) { s.TokenFile = fixture.TokenFile(t, fixture.GoodToken) })
	_, port, err := net.SplitHostPort(open.Address)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		server *fixture.Server
		path   string
		host   string
		want   int
	}{
		{open, "/", "", http.StatusOK},
		{open, "/", "localhost:" + port, http.StatusOK},
		{open, "/", "LocalHost", http.StatusOK},
		{open, "/", "iglu.localhost:" + port, http.StatusOK},
		{open, "/", "[::1]:" + port, http.StatusOK},
		{open, "/", "[::1]", http.StatusOK},
		{open, "/", "192.0.2.1", http.StatusOK},
		{open, "/", "ui.example.com", http.StatusOK},
		{open, "/", "rebound.example.com:" + port, http.StatusForbidden},
		{open, "/api/v1/jobs", "rebound.example.com:" + port, http.StatusForbidden},
		{open, schemas.BuildPath, "localhost.example.com", http.StatusForbidden},
		{open, "/", "127.0.0.1.example.com", http.StatusForbidden},
		{open, "/metrics", "rebound.example.com", http.StatusForbidden},
		{open, "/livez", "builder.example.com", http.StatusOK},
		{wide, "/", "builder:3000", http.StatusOK}, // the name of a container
		{wide, "/api/v1/jobs", "rebound.example.com:3000", http.StatusForbidden},
		{wide, schemas.BuildPath, "rebound.example.com:3000", http.StatusForbidden},
		{wide, "/api/v1/healthcheck", "builder.example.com", http.StatusOK},
		{locked, "/login", "builder.example.com", http.StatusOK},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+test.server.Address+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = test.host
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != test.want {
			t.Errorf("%s as %q: %s, want %d", test.path, test.host, response.Status, test.want)
		}
	}
}

// TestTokenOfClient runs the command-line client with and without a token. It reports a wrong token.
func TestTokenOfClient(t *testing.T) {
	s := fixture.ServerWith(t, func(s *server.Settings) { s.TokenFile = fixture.TokenFile(t, fixture.GoodToken) })
	submit := func(args ...string) (int, string) {
		var stdout, stderr bytes.Buffer
		args = append([]string{"build", "--url", "ws://" + s.Address, "-"}, args...)
		code := fixture.RunProgram(t.Context(), args, strings.NewReader(fixture.JSONOf(t, fixture.Command("sh -c 'exit 3'"))), &stdout, &stderr)
		return code, stderr.String()
	}
	if code, output := submit(); code != 125 || !strings.Contains(output, "--token-file") {
		t.Errorf("without a token: %d, %s", code, output)
	}
	if code, output := submit("--token-file", fixture.TokenFile(t, fixture.GoodToken)); code != 3 {
		t.Errorf("with the token: %d, %s", code, output)
	}
	t.Setenv("IGLU_TOKEN_FILE", fixture.TokenFile(t, fixture.GoodToken))
	if code, output := submit(); code != 3 {
		t.Errorf("with the token from the environment: %d, %s", code, output)
	}
}

// TestWarningWithoutToken starts servers with and without a token. One that listens on all addresses without a token
// logs a warning.
func TestWarningWithoutToken(t *testing.T) {
	const warning = "anyone who can reach this address can run programs on the container engine"
	for _, test := range []struct {
		listen, token string
		warns         bool
	}{
		{"127.0.0.1:0", "", false},
		{"0.0.0.0:0", "", true},
		{"0.0.0.0:0", fixture.GoodToken, false},
	} {
		s := fixture.ServerWith(t, func(s *server.Settings) {
			s.Listen = test.listen
			if test.token != "" {
				s.TokenFile = fixture.TokenFile(t, test.token)
			}
		})
		if warns := strings.Contains(s.Log.String(), warning); warns != test.warns {
			t.Errorf("on %s with token %q, it warns: %v", test.listen, test.token, warns)
		}
	}
}

func TestOrigins(t *testing.T) {
	s := fixture.ServerWith(t, func(s *server.Settings) { s.AllowedOrigins = []string{"https://ui.example.com"} })
	for origin, status := range map[string]int{
		"":                              101,
		"http://" + s.Address:           101,
		"https://ui.example.com":        101,
		"https://UI.example.com":        101,
		"http://ui.example.com":         403,
		"https://ui.example.com:8443":   403,
		"https://evil.example.com":      403,
		"https://ui.example.com.evil.x": 403,
		"null":                          403,
	} {
		header := http.Header{}
		if origin != "" {
			header.Set("Origin", origin)
		}
		response, c := fixture.AnswerTo(t, s, header)
		if response.StatusCode != status {
			t.Errorf("%q: status %d, want %d", origin, response.StatusCode, status)
		}
		if c != nil {
			c.Conn.Close()
		}
	}
}

// TestFlood opens 5,000 connections while a job runs. Half of them send nothing, the other half read the answer and
// stay open. The job, the server's memory and its health check are not affected.
func TestFlood(t *testing.T) {
	const connections, mostMemory = 5000, 64 << 10 // KiB
	s := fixture.StartProcess(t, "--job-image", fixture.Env.Image, "--allowed-commands", "sh")
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command("sh -c 'echo begun; while ! [ -e /tmp/end ]; do sleep 0.1; done; sleep 2; echo done'")))
	c.WaitFor(`"begun"`)
	ended := c.InBackground() // so that it answers pings

	var (
		mu       sync.Mutex
		conns    []net.Conn
		answered int
		all      sync.WaitGroup
		next     = make(chan int)
	)
	for range 50 {
		all.Go(func() {
			for n := range next {
				conn, err := net.DialTimeout("tcp", s.Address, time.Minute)
				if err != nil {
					t.Error(err)
					continue
				}
				mute := n%2 == 0
				if n%8 == 0 { // does not read the answers
					conn.SetWriteDeadline(time.Now().Add(time.Second))
					io.WriteString(conn, strings.Repeat("GET /assets/job.js HTTP/1.1\r\nHost: localhost\r\n\r\n", 500))
				} else if n%4 == 0 { // never sends the form's content
					fmt.Fprint(conn, "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\ntoken=")
				}
				if !mute && askAndListen(conn) {
					mu.Lock()
					answered++
					mu.Unlock()
				}
				mu.Lock()
				conns = append(conns, conn)
				mu.Unlock()
			}
		})
	}
	checked := 0
	for n := range connections {
		next <- n
		if n%500 == 0 {
			if err := fixture.AwaitHealthy(s.Address, time.Minute); err != nil {
				t.Errorf("after %d connections, the health check: %v", n, err)
			}
			checked++
		}
	}
	close(next)
	all.Wait()
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.PID)); err != nil {
		t.Error(err)
	} else if used, _ := strconv.Atoi(string(peak.FindSubmatch(status)[1])); used > mostMemory {
		t.Errorf("the server took %d KiB", used)
	} else {
		t.Logf("%d of %d clients got the answer busy, %d health checks, at most %d KiB", answered, connections/2, checked, used)
	}
	if answered < connections/4 {
		t.Errorf("only %d clients got the answer busy", answered)
	}
	fixture.Docker(t, "exec", s.JobContainer(t), "/bin/sh", "-c", "> /tmp/end")
	got := <-ended
	fixture.WantLine(t, got, "done")
	if len(got.Messages) != 1 || got.Messages[0] != fixture.Succeeded {
		t.Errorf("the job ended with %v", got.Messages)
	}
	for _, conn := range conns {
		conn.Close()
	}
	fixture.WantFree(t, s)
}

var peak = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// askAndListen requests a WebSocket and reports whether the answer is that the server is busy.
func askAndListen(conn net.Conn) bool {
	conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprint(conn, "GET /api/v1/build HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	var read bytes.Buffer
	for buf := make([]byte, 512); !strings.Contains(read.String(), fixture.Busy); {
		n, err := conn.Read(buf)
		read.Write(buf[:n])
		if err != nil {
			return false
		}
	}
	return true
}
