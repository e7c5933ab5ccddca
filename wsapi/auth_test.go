package wsapi

import (
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/schemas"
)

const goodToken = "0123456789-token.of_the~tests"

func withToken(o *Options) { o.Auth.Token = goodToken }

// TestHosts addresses servers by name. Without a token, only the health checks answer requests for a name that somebody on
// the internet can own.
func TestHosts(t *testing.T) {
	for _, test := range []struct {
		path string
		host string
		want int // of a server without a token
	}{
		{"/", "builder:3000", 200},
		{"/", "ui.example.com", 200},
		{"/", "rebound.example.com:3000", 403},
		{"/api/v1/jobs", "rebound.example.com", 403},
		{"/login", "rebound.example.com", 403},
		{"/metrics", "rebound.example.com", 403},
		{schemas.BuildPath, "rebound.example.com", 403},
		{"/livez", "rebound.example.com", 200},
		{"/readyz", "rebound.example.com", 200},
		{"/api/v1/healthcheck", "rebound.example.com", 200},
	} {
		bubble(t, test.path+" as "+test.host, func(t *testing.T) {
			origins := func(o *Options) {
				o.Auth.AllowedOrigins = []string{"https://ui.example.com"}
				o.Metrics = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
			}
			request := newRequest(t, "GET", test.path, nil, "")
			request.Host = test.host
			if response, body := serve(t, &fakeBuilder{}, origins).do(request); response.StatusCode != test.want ||
				test.want == 403 && !strings.Contains(body, "IGLU_TOKEN_FILE") {
				t.Errorf("status %d, want %d: %s", response.StatusCode, test.want, body)
			}
			// With the token, any name will do.
			request.Header = http.Header{"Authorization": {"Bearer " + goodToken}}
			want := 200
			if test.path == schemas.BuildPath {
				want = 400 // it asks for no WebSocket
			}
			if response, _ := serve(t, &fakeBuilder{}, origins, withToken).do(request); response.StatusCode != want {
				t.Errorf("with the token: status %d, want %d", response.StatusCode, want)
			}
		})
	}
	for _, path := range []string{"/login", "/logout"} {
		bubble(t, "POST "+path, func(t *testing.T) {
			request := newRequest(t, "POST", path, nil, "")
			request.Host = "rebound.example.com"
			if response, _ := serve(t, &fakeBuilder{}).do(request); response.StatusCode != 403 {
				t.Errorf("status %d", response.StatusCode)
			}
		})
	}
}

// TestToken shows tokens in each way in which a client can, and some that are wrong.
func TestToken(t *testing.T) {
	const events = schemas.EventsProtocol
	authorization := func(value string) http.Header { return http.Header{"Authorization": {value}} }
	for _, test := range []struct {
		name     string
		header   http.Header
		offered  []string
		status   int
		protocol string
	}{
		{"none", nil, nil, 401, ""},
		{"a token too long", authorization("Bearer " + goodToken + "x"), nil, 401, ""},
		{"the token as a protocol", nil, []string{goodToken}, 401, ""},
		{"events and the token", nil, []string{events, goodToken}, 401, ""},
		{"the header", authorization("Bearer " + goodToken), nil, 101, ""},
		{"the header and events", authorization("Bearer " + goodToken), []string{events}, 101, events},
		{"protocol and token", nil, []string{"bearer", goodToken}, 101, "bearer"},
		{"events first", nil, []string{events, "bearer", goodToken}, 101, events},
		{"events last", nil, []string{"bearer", goodToken, events}, 101, events},
	} {
		bubble(t, test.name, func(t *testing.T) {
			f := serve(t, printing("", 0), withToken)
			conn, err := f.connect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ws, response := f.shake(conn, "localhost", test.header, test.offered...)
			if response.StatusCode != test.status {
				t.Fatalf("status %d, want %d", response.StatusCode, test.status)
			}
			if strings.Contains(f.log.String(), goodToken) {
				t.Error("the token is in the log")
			}
			if ws == nil {
				body, _ := io.ReadAll(response.Body)
				if response.Header.Get("WWW-Authenticate") != "Bearer" || !strings.Contains(string(body), "Authorization: Bearer") {
					t.Errorf("%v: %s", response.Header, body)
				}
				f.wantRefused("unauthorized")
				return
			}
			if ws.Subprotocol() != test.protocol {
				t.Errorf("the protocol is %q", ws.Subprotocol())
			}
			f.wantRefused()
			c := &client{t, ws}
			c.send("{}")
			c.finish().check(t, websocket.CloseInvalidFramePayloadData, invalid("git: is missing; buildOptions: is missing"))
		})
	}
}

// TestOrigins connects from pages of several origins.
func TestOrigins(t *testing.T) {
	for _, test := range []struct {
		host, origin string
		status       int
	}{
		{"localhost:3000", "", 101},
		{"localhost:3000", "http://localhost:3000", 101},
		{"localhost:3000", "https://ui.example.com", 101},
		{"localhost:3000", "https://evil.example.com", 403},
	} {
		bubble(t, test.origin, func(t *testing.T) {
			f := serve(t, &fakeBuilder{}, func(o *Options) { o.Auth.AllowedOrigins = []string{"https://ui.example.com"} })
			conn, err := f.connect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			header := http.Header{}
			if test.origin != "" {
				header.Set("Origin", test.origin)
			}
			ws, response := f.shake(conn, test.host, header)
			if response.StatusCode != test.status {
				t.Fatalf("status %d, want %d", response.StatusCode, test.status)
			}
			if ws == nil {
				f.wantRefused("origin")
				return
			}
			f.wantRefused()
		})
	}
}

// TestBehindToken asks for all that needs the token, without it and from a page of another origin.
func TestBehindToken(t *testing.T) {
	token := http.Header{"Authorization": {"Bearer " + goodToken}}
	wrong := http.Header{"Authorization": {"Bearer wrong"}}
	elsewhere := http.Header{"Authorization": {"Bearer " + goodToken}, "Origin": {"http://elsewhere.example"}}
	browser := http.Header{"Accept": {"text/html,application/xhtml+xml,*/*;q=0.8"}}
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, &fakeBuilder{}, withToken, func(o *Options) {
			o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "numbers") })
		})
		for _, test := range []struct {
			method, path string
			header       http.Header
			status       int
			body         string // of what is served
		}{
			{"GET", "/", nil, 401, ""},
			{"GET", "/", browser, 303, ""},
			{"GET", "/", token, 200, "page /"},
			{"GET", "/", elsewhere, 200, "page /"}, // which a browser does not let the page read
			{"GET", "/api/v1/jobs/x/log", nil, 401, ""},
			{"GET", "/api/v1/jobs/x/log", token, 200, "page /api/v1/jobs/x/log"},
			{"POST", "/api/v1/jobs/x/cancel", nil, 401, ""},
			{"POST", "/api/v1/jobs/x/cancel", elsewhere, 403, ""},
			{"POST", "/api/v1/jobs/x/cancel", token, 200, "page /api/v1/jobs/x/cancel"},
			{"POST", "/login", elsewhere, 403, ""},
			{"POST", "/logout", elsewhere, 403, ""},
			{"GET", "/login", nil, 200, "page /login"},
			{"GET", "/assets/page.css", nil, 200, "page /assets/page.css"},
			{"GET", "/metrics", nil, 401, ""},
			{"GET", "/metrics", wrong, 401, ""},
			{"GET", "/metrics", elsewhere, 403, ""},
			{"POST", "/metrics", token, 405, ""},
			{"GET", "/metrics", token, 200, "numbers"},
			{"GET", "/api/v1/healthcheck", nil, 200, healthy},
		} {
			response, body := f.do(newRequest(t, test.method, test.path, test.header, ""))
			if response.StatusCode != test.status || test.status == 200 && body != test.body {
				t.Errorf("%s %s with %v: %d %q, want %d %q", test.method, test.path, test.header, response.StatusCode, body, test.status, test.body)
			}
			if strings.Contains(body, "page") != strings.Contains(test.body, "page") {
				t.Errorf("%s %s with %v shows %q", test.method, test.path, test.header, body)
			}
		}
		f.wantRefused() // only jobs are
	})
}

// TestNoMetrics has a server without numbers.
func TestNoMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if status, _ := serve(t, &fakeBuilder{}).ask("GET", "/metrics"); status != 404 {
			t.Errorf("status %d", status)
		}
	})
}

// TestClientsThatAreJobs rejects every request from an address that jobs can have, the health
// checks included.
func TestClientsThatAreJobs(t *testing.T) {
	f := serveTCP(t, &fakeBuilder{}, func(o *Options) {
		o.Auth.IsOfJobs = func(client, server netip.Addr) bool { return client.IsLoopback() && server.IsLoopback() }
	})
	for _, path := range []string{"/api/v1/build", "/livez", "/metrics", "/"} {
		if status, body := f.ask("GET", path); status != 403 || !strings.Contains(body, "from the network of its jobs") {
			t.Errorf("%s: %d, %s", path, status, body)
		}
	}
	f.wantRefused("from-a-job", "from-a-job", "from-a-job", "from-a-job")
}

// login sends the login form.
func (f *fixture) login(token, next string) *http.Response {
	f.t.Helper()
	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	form := url.Values{"token": {token}, "next": {next}}.Encode()
	response, _ := f.do(newRequest(f.t, "POST", "/login", header, form))
	return response
}

// TestLogin logs in, uses the cookie for the page, the metrics and a job, and logs out.
func TestLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, printing("", 0), withToken, func(o *Options) {
			o.Metrics = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
		})
		if response := f.login("wrong", "/jobs"); response.StatusCode != 303 || len(response.Cookies()) != 0 {
			t.Errorf("with a wrong token: status %d, cookies %v", response.StatusCode, response.Cookies())
		}
		response := f.login(goodToken, "/jobs/x?tab=log")
		if location := response.Header.Get("Location"); response.StatusCode != 303 || location != "./jobs/x?tab=log" {
			t.Errorf("status %d to %q", response.StatusCode, location)
		}
		cookies := response.Cookies()
		if len(cookies) != 1 || cookies[0].Secure {
			t.Fatalf("cookies %v", cookies)
		}
		header := http.Header{"Cookie": {cookies[0].Name + "=" + cookies[0].Value}}
		for _, path := range []string{"/jobs", "/metrics"} {
			if response, _ := f.do(newRequest(t, "GET", path, header, "")); response.StatusCode != 200 {
				t.Errorf("%s with the cookie: %d", path, response.StatusCode)
			}
		}
		conn, err := f.connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ws, _ := f.shake(conn, "localhost", header)
		if ws == nil {
			t.Fatal("no WebSocket with the cookie")
		}
		c := &client{t, ws}
		c.send(job())
		c.finish().check(t, websocket.CloseNormalClosure, accepted, succeeded)
		response, _ = f.do(newRequest(t, "POST", "/logout", header, ""))
		if cookies := response.Cookies(); response.StatusCode != 303 || len(cookies) != 1 || cookies[0].MaxAge >= 0 {
			t.Errorf("logged out: status %d, cookies %v", response.StatusCode, cookies)
		}
	})
}

// TestLoginOverTLS gets a cookie that browsers send over TLS only.
func TestLoginOverTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serveTLS(t, &fakeBuilder{}, withToken)
		if cookies := f.login(goodToken, "/").Cookies(); len(cookies) != 1 || !cookies[0].Secure {
			t.Errorf("cookies %v", cookies)
		}
	})
}

// TestSlowLogin sends half a form: the server answers when the time for it is up.
func TestSlowLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 10 * time.Second // of package auth
		f := serve(t, &fakeBuilder{}, withToken)
		conn, err := f.connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		begun := time.Now()
		conn.Write([]byte("POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\ntoken="))
		answer := make([]byte, 100)
		if _, err := conn.Read(answer); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 303 See Other\r\n") {
			t.Errorf("answer %q, %v", answer, err)
		}
		if took := time.Since(begun); took != timeout {
			t.Errorf("it took %s", took)
		}
	})
}
