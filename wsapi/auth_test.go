package wsapi

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/schemas"
)

const goodToken = "0123456789-token.of_the~tests"

func withToken(o *Options) { o.Token = goodToken }

// TestHosts calls servers by names: without a token, one answers only to those that nobody on
// the internet can own.
func TestHosts(t *testing.T) {
	for _, test := range []struct {
		path string
		host string
		want int // of a server without a token
	}{
		{"/", "127.0.0.1:3000", 200},
		{"/", "localhost:3000", 200},
		{"/", "LocalHost", 200},
		{"/", "iglu.localhost:3000", 200},
		{"/", "iglu.LOCALHOST", 200},
		{"/", "builder:3000", 200}, // as containers call each other
		{"/", "[::1]:3000", 200},
		{"/", "[::1]", 200},
		{"/", "192.0.2.1", 200},
		{"/", "ui.example.com", 200},
		{"/", "UI.example.com:8443", 403},
		{"/", "other.example.com:8443", 200},
		{"/", "rebound.example.com:3000", 403},
		{"/", "localhost.example.com", 403},
		{"/", "127.0.0.1.example.com", 403},
		{"/", "xlocalhost.", 403},
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
				o.AllowedOrigins = []string{"https://ui.example.com", "https://other.example.com:8443"}
				o.Metrics = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
			}
			request := newRequest(t, "GET", test.path, nil, "")
			request.Host = test.host
			if response, body := serve(t, &fakeBuilder{}, origins).do(request); response.StatusCode != test.want ||
				test.want == 403 && !strings.Contains(body, "IGLU_TOKEN_FILE") {
				t.Errorf("status %d, want %d: %s", response.StatusCode, test.want, body)
			}
			// With the token, the name is of no concern.
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

// TestToken shows tokens in each way that there is.
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
		{"a scheme alone", authorization("Bearer"), nil, 401, ""},
		{"a token cut short", authorization("Bearer " + goodToken[1:]), nil, 401, ""},
		{"a token too long", authorization("Bearer " + goodToken + "x"), nil, 401, ""},
		{"another scheme", authorization("Basic " + goodToken), nil, 401, ""},
		{"no scheme", authorization(goodToken), nil, 401, ""},
		{"the header", authorization("Bearer " + goodToken), nil, 101, ""},
		{"the scheme in small letters", authorization("bearer " + goodToken), nil, 101, ""},
		{"the header and events", authorization("Bearer " + goodToken), []string{events}, 101, events},
		{"a wrong header and a protocol", authorization("Bearer wrong"), []string{"bearer", goodToken}, 401, ""},
		{"protocol alone", nil, []string{"bearer"}, 401, ""},
		{"protocol and a wrong token", nil, []string{"bearer", "wrong"}, 401, ""},
		{"the token as a protocol", nil, []string{goodToken}, 401, ""},
		{"protocol and token", nil, []string{"bearer", goodToken}, 101, "bearer"},
		{"events first", nil, []string{events, "bearer", goodToken}, 101, events},
		{"events last", nil, []string{"bearer", goodToken, events}, 101, events},
		{"events between", nil, []string{"bearer", events, goodToken}, 401, ""},
		{"events alone", nil, []string{events}, 401, ""},
		{"events and the token", nil, []string{events, goodToken}, 401, ""},
		{"events and protocol", nil, []string{events, "bearer"}, 401, ""},
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
			if strings.Contains(f.loggedText(), goodToken) {
				t.Error("the token stands in the log")
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
		{"localhost:3000", "http://LOCALHOST:3000", 101},
		{"localhost:3000", "http://localhost:3001", 403},
		{"localhost:3000", "http://localhost", 403},
		{"localhost:3000", "https://ui.example.com", 101},
		{"localhost:3000", "https://UI.example.com", 101},
		{"localhost:3000", "http://ui.example.com", 403},
		{"localhost:3000", "https://ui.example.com:8443", 403},
		{"localhost:3000", "https://evil.example.com", 403},
		{"localhost:3000", "https://ui.example.com.evil.x", 403},
		{"localhost:3000", "null", 403},
		{"localhost:3000", "http://%zz", 403},
	} {
		bubble(t, test.origin, func(t *testing.T) {
			f := serve(t, &fakeBuilder{}, func(o *Options) { o.AllowedOrigins = []string{"https://ui.example.com"} })
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

// TestOriginOverTLS has pages of the server's name come where it has encryption.
func TestOriginOverTLS(t *testing.T) {
	s := NewServer(&fakeBuilder{}, Options{}, nil)
	for origin, want := range map[string]bool{
		"":                           true,
		"https://builder.example:30": true,
		"HTTPS://builder.example:30": true,
		"http://builder.example:30":  false,
		"https://builder.example":    false,
	} {
		header := http.Header{}
		if origin != "" {
			header.Set("Origin", origin)
		}
		request := newRequest(t, "GET", "/", header, "")
		request.Host, request.TLS = "builder.example:30", &tls.ConnectionState{}
		if got := s.isAllowedOrigin(request); got != want {
			t.Errorf("%q: %t", origin, got)
		}
	}
}

// TestOriginWithoutHost has a page without an origin of its own come by HTTP/1.0, which need
// not say a host: the two are not the same for both being empty.
func TestOriginWithoutHost(t *testing.T) {
	request := newRequest(t, "GET", "/", http.Header{"Origin": {"null"}}, "")
	request.Host = ""
	if NewServer(&fakeBuilder{}, Options{}, nil).isAllowedOrigin(request) {
		t.Error("the origin null is the server's own")
	}
}

// TestBehindToken asks for all that lies behind the token, without it and from a page of
// elsewhere.
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
			{"GET", "/", wrong, 401, ""},
			{"HEAD", "/", nil, 401, ""},
			{"GET", "/", browser, 303, ""},
			{"GET", "/", token, 200, "page /"},
			{"HEAD", "/", token, 200, ""},
			{"GET", "/", elsewhere, 200, "page /"}, // which a browser does not let the page read
			{"GET", "/api/v1/jobs/x/log", nil, 401, ""},
			{"GET", "/api/v1/jobs/x/log", token, 200, "page /api/v1/jobs/x/log"},
			{"POST", "/api/v1/jobs/x/cancel", nil, 401, ""},
			{"POST", "/api/v1/jobs/x/cancel", browser, 401, ""},
			{"POST", "/api/v1/jobs/x/cancel", elsewhere, 403, ""},
			{"POST", "/api/v1/jobs/x/cancel", token, 200, "page /api/v1/jobs/x/cancel"},
			{"DELETE", "/api/v1/jobs/x", nil, 401, ""},
			{"POST", "/login", elsewhere, 403, ""},
			{"POST", "/logout", elsewhere, 403, ""},
			{"GET", "/login", nil, 200, "page /login"},
			{"POST", "/assets/page.css", nil, 401, ""},
			{"GET", "/assets/page.css", nil, 200, "page /assets/page.css"},
			{"GET", "/assets", nil, 401, ""},
			{"GET", "/login/x", nil, 401, ""},
			{"GET", "/metrics", nil, 401, ""},
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

// TestClientsThatAreJobs turns away whoever comes from an address that jobs can have, whatever he asks
// for.
func TestClientsThatAreJobs(t *testing.T) {
	f := serveTCP(t, &fakeBuilder{}, func(o *Options) {
		o.IsOfJobs = func(addr netip.Addr) bool { return addr.IsLoopback() }
	})
	for _, path := range []string{"/api/v1/build", "/livez", "/metrics", "/"} {
		if status, body := f.ask("GET", path); status != 403 || !strings.Contains(body, "from the network that its jobs are on") {
			t.Errorf("%s: %d, %s", path, status, body)
		}
	}
	f.wantRefused("from-a-job", "from-a-job", "from-a-job", "from-a-job")
}
