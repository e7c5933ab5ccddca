package auth

import (
	"bufio"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// loginForm returns a request with the login form.
func loginForm(token, next string) *http.Request {
	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	return newRequest("POST", "/login", header, url.Values{"token": {token}, "next": {next}}.Encode())
}

// TestLogin logs in, uses the cookie and logs out.
func TestLogin(t *testing.T) {
	f := newFixture(Options{Token: goodToken})
	response := f.do(loginForm(" "+goodToken+"\n", "/jobs/x?tab=log"))
	if location := response.Header.Get("Location"); response.StatusCode != 303 || location != "./jobs/x?tab=log" {
		t.Errorf("status %d to %q", response.StatusCode, location)
	}
	cookies := response.Cookies()
	if len(cookies) != 1 {
		t.Fatalf("%d cookies", len(cookies))
	}
	cookie := cookies[0]
	want := &http.Cookie{Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode}
	if diff := cmp.Diff(want, cookie, cmpopts.IgnoreFields(http.Cookie{}, "Name", "Value", "Raw")); diff != "" {
		t.Errorf("the cookie (-want +got):\n%s", diff)
	}
	if strings.Contains(cookie.Raw, goodToken) {
		t.Error("the token is in the cookie")
	}

	statusWith := func(name, value string) int {
		return f.do(newRequest("GET", "/jobs", http.Header{"Cookie": {name + "=" + value}}, "")).StatusCode
	}
	if status := statusWith(cookie.Name, cookie.Value); status != 200 {
		t.Errorf("with the cookie: %d", status)
	}
	for name, value := range map[string]string{cookie.Name: cookie.Value[1:], "other": cookie.Value, cookie.Name[1:]: cookie.Value} {
		if status := statusWith(name, value); status != 401 {
			t.Errorf("with %s=%s: %d", name, value, status)
		}
	}
	other := New(Options{Token: goodToken + "x"}, nil)
	if other.cookieName() == cookie.Name || other.cookieValue() == cookie.Value {
		t.Error("another token has the same cookie")
	}

	response = f.do(newRequest("POST", "/logout", http.Header{"Cookie": {cookie.Name + "=" + cookie.Value}}, ""))
	if location := response.Header.Get("Location"); response.StatusCode != 303 || location != "./login" {
		t.Errorf("status %d to %q", response.StatusCode, location)
	}
	if cookies := response.Cookies(); len(cookies) != 1 || cookies[0].Name != cookie.Name || cookies[0].MaxAge >= 0 || cookies[0].Value != "" {
		t.Errorf("logged out, the cookies are %v", cookies)
	}
}

// TestLoginOverTLS gets a cookie that browsers send over TLS only, from the server or a proxy in front of it.
func TestLoginOverTLS(t *testing.T) {
	direct := loginForm(goodToken, "/")
	direct.TLS = &tls.ConnectionState{}
	proxied := loginForm(goodToken, "/")
	proxied.Header.Set("Origin", "https://localhost")
	plain := loginForm(goodToken, "/")
	plain.Header.Set("Origin", "http://localhost")
	for request, want := range map[*http.Request]bool{direct: true, proxied: true, plain: false} {
		if cookies := newFixture(Options{Token: goodToken}).do(request).Cookies(); len(cookies) != 1 || cookies[0].Secure != want {
			t.Errorf("cookies %v, want a secure one: %t", cookies, want)
		}
	}
}

// TestLoginRefused logs in with what is not the token.
func TestLoginRefused(t *testing.T) {
	f := newFixture(Options{Token: goodToken})
	for _, token := range []string{"", "wrong", goodToken + "x", goodToken + strings.Repeat(" ", maxLogin)} {
		response := f.do(loginForm(token, "/new"))
		location := response.Header.Get("Location")
		if response.StatusCode != 303 || !strings.HasPrefix(location, "./login?next=%2F") || !strings.HasSuffix(location, "&wrong=1") || len(response.Cookies()) != 0 {
			t.Errorf("%.40q: status %d to %q, cookies %v", token, response.StatusCode, location, response.Cookies())
		}
	}
	if log := f.logged.String(); strings.Count(log, "sign-in with a wrong token") != 4 || strings.Contains(log, goodToken) {
		t.Errorf("the log is %s", log)
	}
	// The token counts only in the form: URLs are written to logs.
	if cookies := f.do(newRequest("POST", "/login?token="+goodToken, nil, "")).Cookies(); len(cookies) != 0 {
		t.Error("the token counts in the URL")
	}
}

// TestLoginOrigin logs in and out from a page of another origin.
func TestLoginOrigin(t *testing.T) {
	f := newFixture(Options{Token: goodToken})
	for _, path := range []string{"/login", "/logout"} {
		request := loginForm(goodToken, "/")
		request.URL.Path = path
		request.Header.Set("Origin", "https://evil.example")
		if response := f.do(request); response.StatusCode != 403 || len(response.Cookies()) != 0 {
			t.Errorf("%s: status %d, cookies %v", path, response.StatusCode, response.Cookies())
		}
	}
}

// TestLoginNext checks that a browser is redirected after the login, to a path on this server.
func TestLoginNext(t *testing.T) {
	for next, want := range map[string]string{
		"/":                         "/",
		"/jobs/x?a=1&b=%2F":         "/jobs/x?a=1&b=%2F",
		"/a%2fb":                    "/a%2fb",
		"":                          "/",
		"jobs":                      "/",
		"https://evil.example":      "/",
		"https://evil.example/x":    "/",
		"//evil.example":            "/",
		"//evil.example/x":          "/",
		"///evil.example":           "/",
		"/%2fevil.example":          "/",
		"/\\evil.example":           "/",
		"\\\\evil.example":          "/",
		"/\t/evil.example":          "/",
		"/\r\nSet-Cookie: a=b":      "/",
		"javascript:alert(1)":       "/",
		"/%zz":                      "/",
		"/jobs/x#L7-L9":             "/jobs/x#L7-L9",
		"/jobs/x?a=1#\"<>":          "/jobs/x?a=1#%22%3C%3E",
		"#L7":                       "/",
		"//user@evil.example/a?b=c": "/",
	} {
		if got := localPath(next); got != want {
			t.Errorf("%q leads to %q, want %q", next, got, want)
		}
	}
	f := newFixture(Options{Token: goodToken})
	if location := f.do(loginForm(goodToken, "//evil.example")).Header.Get("Location"); location != "./" {
		t.Errorf("redirected to %q", location)
	}
	// A browser that asks for a page without the token gets back to that page.
	for path, want := range map[string]string{
		"/":                "./login?next=%2F",
		"/new":             "./login?next=%2Fnew",
		"/jobs/x?a=1":      "./../login?next=%2Fjobs%2Fx%3Fa%3D1",
		"/jobs/x%2Fy":      "./../login?next=%2Fjobs%2Fx%252Fy",
		"/no/such/page?/x": "./../../login?next=%2Fno%2Fsuch%2Fpage%3F%2Fx",
	} {
		response := f.do(newRequest("GET", path, http.Header{"Accept": {"text/html"}}, ""))
		if location := response.Header.Get("Location"); location != want {
			t.Errorf("%s is redirected to %q, want %q", path, location, want)
		}
	}
}

// TestSlowLogin sends half a form to an HTTP server.
func TestSlowLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		httpServer := &http.Server{Handler: newFixture(Options{Token: goodToken}).handler}
		served := make(chan struct{})
		go func() {
			defer close(served)
			httpServer.Serve(newOneListener(server))
		}()
		defer func() {
			httpServer.Close()
			<-served
		}()
		begun := time.Now()
		client.Write([]byte("POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\ntoken="))
		response, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != 303 || len(response.Cookies()) != 0 {
			t.Errorf("status %d, cookies %v", response.StatusCode, response.Cookies())
		}
		if took := time.Since(begun); took != loginTimeout {
			t.Errorf("it took %s", took)
		}
	})
}

// A oneListener accepts one connection.
type oneListener struct{ conns chan net.Conn }

func newOneListener(conn net.Conn) *oneListener {
	l := &oneListener{make(chan net.Conn, 1)}
	l.conns <- conn
	return l
}

func (l *oneListener) Accept() (net.Conn, error) {
	if conn := <-l.conns; conn != nil {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (l *oneListener) Close() error   { close(l.conns); return nil }
func (l *oneListener) Addr() net.Addr { return nil }
