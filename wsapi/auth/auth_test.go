package auth

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const goodToken = "0123456789-token.of_the~tests"

// A fixture is a Guard, and a handler that uses it for a login form and a page.
type fixture struct {
	*Guard
	handler *http.ServeMux
	logged  strings.Builder
}

func newFixture(options Options) *fixture {
	f := &fixture{handler: http.NewServeMux()}
	f.Guard = New(options, slog.New(slog.NewTextHandler(&f.logged, nil)))
	f.handler.HandleFunc("POST /login", f.ServeLogin)
	f.handler.HandleFunc("POST /logout", f.ServeLogout)
	f.handler.HandleFunc("/", f.ProtectPage(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "page "+r.URL.Path)
	})))
	return f
}

// do returns the handler's answer to a request.
func (f *fixture) do(request *http.Request) *http.Response {
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, request)
	return w.Result()
}

// newRequest returns a request to localhost.
func newRequest(method, path string, header http.Header, body string) *http.Request {
	request := httptest.NewRequest(method, path, strings.NewReader(body))
	request.Host = "localhost"
	if header != nil {
		request.Header = header
	}
	return request
}

// checkRejected checks what a check has returned and answered: that it has rejected a request
// for a reason, or, if the reason is "", left it alone.
func checkRejected(t *testing.T, reason string, w *httptest.ResponseRecorder, wantReason string, wantStatus int, wantBody string) {
	t.Helper()
	if reason != wantReason {
		t.Errorf("the reason is %q, not %q", reason, wantReason)
	}
	if wantReason == "" {
		if w.Body.Len() > 0 || len(w.Header()) > 0 {
			t.Errorf("it answers %v %q", w.Header(), w.Body)
		}
		return
	}
	if w.Code != wantStatus || w.Body.String() != wantBody+"\n" {
		t.Errorf("it answers %d %q, not %d %q", w.Code, w.Body, wantStatus, wantBody)
	}
}

// TestToken shows tokens in each way that there is.
func TestToken(t *testing.T) {
	authorization := func(value string) http.Header { return http.Header{"Authorization": {value}} }
	offered := func(protocols ...string) http.Header {
		return http.Header{"Sec-Websocket-Protocol": {strings.Join(protocols, ", ")}}
	}
	both := func(header, other http.Header) http.Header {
		for name, values := range other {
			header[name] = values
		}
		return header
	}
	const events = "another.protocol"
	for _, test := range []struct {
		name   string
		header http.Header
		passes bool
	}{
		{"none", nil, false},
		{"a scheme alone", authorization("Bearer"), false},
		{"a token cut short", authorization("Bearer " + goodToken[1:]), false},
		{"a token too long", authorization("Bearer " + goodToken + "x"), false},
		{"another scheme", authorization("Basic " + goodToken), false},
		{"no scheme", authorization(goodToken), false},
		{"the header", authorization("Bearer " + goodToken), true},
		{"the scheme in small letters", authorization("bearer " + goodToken), true},
		{"the header and events", both(authorization("Bearer "+goodToken), offered(events)), true},
		{"a wrong header and a protocol", both(authorization("Bearer wrong"), offered("bearer", goodToken)), false},
		{"a proxy's header and a protocol", both(authorization("Basic dXNlcjp3b3Jk"), offered("bearer", goodToken)), true},
		{"a proxy's header and a wrong protocol", both(authorization("Basic dXNlcjp3b3Jk"), offered("bearer", "wrong")), false},
		{"protocol alone", offered("bearer"), false},
		{"protocol and a wrong token", offered("bearer", "wrong"), false},
		{"the token as a protocol", offered(goodToken), false},
		{"protocol and token", offered("bearer", goodToken), true},
		{"events first", offered(events, "bearer", goodToken), true},
		{"events last", offered("bearer", goodToken, events), true},
		{"events between", offered("bearer", events, goodToken), false},
		{"events alone", offered(events), false},
		{"events and the token", offered(events, goodToken), false},
		{"events and protocol", offered(events, "bearer"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, w := newFixture(Options{Token: goodToken}), httptest.NewRecorder()
			want := RefusedToken
			if test.passes {
				want = ""
			}
			reason := f.Check(w, newRequest("GET", "/", test.header, ""))
			checkRejected(t, reason, w, want, 401, "The builder's token is missing or wrong: send it as Authorization: Bearer TOKEN.")
			if !test.passes && w.Header().Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("the header is %v", w.Header())
			}
			if strings.Contains(f.logged.String(), goodToken) {
				t.Error("the token is in the log")
			}
		})
	}
}

// TestNoToken sets no token: requests need none, and any token is accepted.
func TestNoToken(t *testing.T) {
	for name, header := range map[string]http.Header{"none": nil, "some": {"Authorization": {"Bearer x"}}} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			reason := newFixture(Options{}).Check(w, newRequest("GET", "/", header, ""))
			checkRejected(t, reason, w, "", 0, "")
		})
	}
}

// TestOrigins connects from pages of several origins.
func TestOrigins(t *testing.T) {
	for _, test := range []struct {
		host, origin string
		passes       bool
	}{
		{"localhost:3000", "", true},
		{"localhost:3000", "http://localhost:3000", true},
		{"localhost:3000", "http://LOCALHOST:3000", true},
		{"localhost:3000", "http://localhost:3001", false},
		{"localhost:3000", "http://localhost", false},
		{"localhost:3000", "https://ui.example.com", true},
		{"localhost:3000", "https://UI.example.com", true},
		{"localhost:3000", "http://ui.example.com", false},
		{"localhost:3000", "https://ui.example.com:8443", false},
		{"localhost:3000", "https://evil.example.com", false},
		{"localhost:3000", "https://ui.example.com.evil.x", false},
		{"localhost:3000", "https://ui.example.com:443", true},
		{"localhost:3000", "https://old.example.com", true},
		{"localhost:3000", "https://old.example.com:80", false},
		{"builder.example.com:443", "https://builder.example.com", true}, // a proxy adds the port
		{"builder.example.com:80", "http://builder.example.com", true},
		{"builder.example.com", "http://builder.example.com:80", true},
		{"builder.example.com:80", "https://builder.example.com", false},
		{"builder.example.com:8443", "https://builder.example.com:443", false},
		{"[2001:db8::80]:80", "http://[2001:db8::80]", true},
		{"localhost:3000", "null", false},
		{"localhost:3000", "http://%zz", false},
	} {
		t.Run(test.origin, func(t *testing.T) {
			f, w := newFixture(Options{AllowedOrigins: []string{"https://ui.example.com", "https://old.example.com:443"}}), httptest.NewRecorder()
			want := RefusedOrigin
			if test.passes {
				want = ""
			}
			reason := f.Check(w, requestFrom(test.origin, test.host))
			checkRejected(t, reason, w, want, 403, "Pages of this origin may not use the builder (IGLU_ALLOWED_ORIGINS).")
		})
	}
}

// requestFrom returns a request of a page's to a host.
func requestFrom(origin, host string) *http.Request {
	header := http.Header{}
	if origin != "" {
		header.Set("Origin", origin)
	}
	request := newRequest("GET", "/", header, "")
	request.Host = host
	return request
}

// TestOriginOverTLS has pages of the server's name connect over TLS.
func TestOriginOverTLS(t *testing.T) {
	g := New(Options{}, nil)
	for origin, want := range map[string]bool{
		"":                           true,
		"https://builder.example:30": true,
		"HTTPS://builder.example:30": true,
		"http://builder.example:30":  false,
		"https://builder.example":    false,
	} {
		request := requestFrom(origin, "builder.example:30")
		request.TLS = &tls.ConnectionState{}
		if got := g.isAllowedOrigin(request); got != want {
			t.Errorf("%q: %t", origin, got)
		}
	}
}

// TestOriginWithoutHost connects from a page without an origin by HTTP/1.0, without a Host. Both are empty, but they do
// not count as equal.
func TestOriginWithoutHost(t *testing.T) {
	if New(Options{}, nil).isAllowedOrigin(requestFrom("null", "")) {
		t.Error("the origin null is the server's own")
	}
}

// TestTokenBeforeOrigin sends neither the token nor an allowed origin. The answer says nothing
// about origins to a client without the token.
func TestTokenBeforeOrigin(t *testing.T) {
	w := httptest.NewRecorder()
	if reason := New(Options{Token: goodToken}, nil).Check(w, requestFrom("https://evil.example", "localhost")); reason != RefusedToken || w.Code != 401 {
		t.Errorf("%s, %d", reason, w.Code)
	}
}

// TestKnownHost addresses servers by name. A server without a token answers only requests for names that nobody on the
// internet can own.
func TestKnownHost(t *testing.T) {
	for _, test := range []struct {
		host string
		want int // without a token
	}{
		{"127.0.0.1:3000", 200},
		{"localhost:3000", 200},
		{"LocalHost", 200},
		{"iglu.localhost:3000", 200},
		{"iglu.LOCALHOST", 200},
		{"builder:3000", 200}, // as containers call each other
		{"[::1]:3000", 200},
		{"[::1]", 200},
		{"192.0.2.1", 200},
		{"ui.example.com", 200},
		{"ui.example.com:443", 200}, // a proxy adds the port
		{"ui.example.com:80", 403},
		{"UI.example.com:8443", 403},
		{"other.example.com:8443", 200},
		{"rebound.example.com:3000", 403},
		{"localhost.example.com", 403},
		{"127.0.0.1.example.com", 403},
		{"xlocalhost.", 403},
	} {
		t.Run(test.host, func(t *testing.T) {
			options := Options{AllowedOrigins: []string{"https://ui.example.com", "https://other.example.com:8443"}}
			for token, want := range map[string]int{"": test.want, goodToken: 200} {
				options.Token = token
				served := false
				handler := New(options, nil).KnownHost(func(http.ResponseWriter, *http.Request) { served = true })
				request, w := newRequest("GET", "/", nil, ""), httptest.NewRecorder()
				request.Host = test.host
				handler(w, request)
				if w.Code != want || served != (want == 200) || !served && !strings.Contains(w.Body.String(), "IGLU_TOKEN_FILE") {
					t.Errorf("with the token %q: status %d, want %d: %s", token, w.Code, want, w.Body)
				}
			}
		})
	}
}

// TestCheckNetwork has clients of several addresses connect.
func TestCheckNetwork(t *testing.T) {
	server := netip.MustParseAddr("172.18.0.1")
	ofJobs := func(client, to netip.Addr) bool {
		return netip.MustParsePrefix("172.18.0.0/16").Contains(client) && to == server
	}
	onLoopback := func(client, to netip.Addr) bool { return client == netip.MustParseAddr("127.0.0.1") && to == client } // stands for a bridge
	for _, test := range []struct {
		name     string
		isOfJobs func(client, server netip.Addr) bool
		from     string
		want     string
	}{
		{"a job", ofJobs, "172.18.0.7:40000", RefusedNetwork},
		{"another", ofJobs, "172.19.0.7:40000", ""},
		{"a job, link-local", onLoopback, "[fe80::7%" + loopback(t) + "]:40000", RefusedNetwork},
		{"another, link-local", ofJobs, "[fe80::7%" + loopback(t) + "]:40000", ""},
		{"on an interface that is gone, or must not be looked at", ofJobs, "[fe80::7%5]:40000", RefusedNetwork},
		{"no address", ofJobs, "@", ""},
		{"no jobs known", nil, "172.18.0.7:40000", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			request, w := newRequest("GET", "/", nil, ""), httptest.NewRecorder()
			request.RemoteAddr = test.from
			at := net.TCPAddrFromAddrPort(netip.AddrPortFrom(server, 3000))
			request = request.WithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, net.Addr(at)))
			reason := New(Options{IsOfJobs: test.isOfJobs}, nil).CheckNetwork(w, request)
			checkRejected(t, reason, w, test.want, 403, "The builder accepts no clients from the network of its jobs.")
		})
	}
}

// loopback returns the name of the loopback interface.
func loopback(t *testing.T) string {
	t.Helper()
	all, err := net.Interfaces()
	i := slices.IndexFunc(all, func(i net.Interface) bool { return i.Flags&net.FlagLoopback != 0 })
	if err != nil || i < 0 {
		t.Fatal("no loopback interface", err)
	}
	return all[i].Name
}

// TestProtectPage asks for the page with the token, without it and from a page of another origin.
func TestProtectPage(t *testing.T) {
	token := http.Header{"Authorization": {"Bearer " + goodToken}}
	wrong := http.Header{"Authorization": {"Bearer wrong"}}
	elsewhere := http.Header{"Authorization": {"Bearer " + goodToken}, "Origin": {"http://elsewhere.example"}}
	browser := http.Header{"Accept": {"text/html,application/xhtml+xml,*/*;q=0.8"}}
	f := newFixture(Options{Token: goodToken})
	for _, test := range []struct {
		method, path string
		header       http.Header
		status       int // 200: the page is served
	}{
		{"GET", "/", nil, 401},
		{"GET", "/", wrong, 401},
		{"HEAD", "/", nil, 401},
		{"GET", "/", browser, 303},
		{"HEAD", "/", browser, 303},
		{"GET", "/", token, 200},
		{"HEAD", "/", token, 200},
		{"GET", "/", elsewhere, 200}, // a browser does not let that page read the answer
		{"GET", "/api/v1/jobs/x/log", nil, 401},
		{"GET", "/api/v1/jobs/x/log", token, 200},
		{"POST", "/api/v1/jobs/x/cancel", nil, 401},
		{"POST", "/api/v1/jobs/x/cancel", browser, 401},
		{"POST", "/api/v1/jobs/x/cancel", elsewhere, 403},
		{"POST", "/api/v1/jobs/x/cancel", token, 200},
		{"DELETE", "/api/v1/jobs/x", nil, 401},
		{"GET", "/login", nil, 200},
		{"GET", "/login/x", nil, 401},
		{"GET", "/assets/page.css", nil, 200},
		{"POST", "/assets/page.css", nil, 401},
		{"GET", "/assets", nil, 401},
	} {
		response := f.do(newRequest(test.method, test.path, test.header, ""))
		body, err := io.ReadAll(response.Body)
		isServed := string(body) == "page "+test.path
		if err != nil || response.StatusCode != test.status || isServed != (test.status == 200) {
			t.Errorf("%s %s with %v: %d %q, want %d", test.method, test.path, test.header, response.StatusCode, body, test.status)
		}
	}
}
