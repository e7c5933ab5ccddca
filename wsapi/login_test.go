package wsapi

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// signIn sends the form with a token.
func (f *fixture) signIn(token, next string) *http.Response {
	f.t.Helper()
	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	form := url.Values{"token": {token}, "next": {next}}.Encode()
	response, _ := f.do(newRequest(f.t, "POST", "/login", header, form))
	return response
}

// TestLogin signs in, looks around and signs out.
func TestLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, &fakeBuilder{}, withToken)
		response := f.signIn(" "+goodToken+"\n", "/jobs/x?tab=log")
		if location := response.Header.Get("Location"); response.StatusCode != 303 || location != "/jobs/x?tab=log" {
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
			header := http.Header{"Cookie": {name + "=" + value}}
			response, _ := f.do(newRequest(t, "GET", "/jobs", header, ""))
			return response.StatusCode
		}
		if status := statusWith(cookie.Name, cookie.Value); status != 200 {
			t.Errorf("with the cookie: %d", status)
		}
		for name, value := range map[string]string{cookie.Name: cookie.Value[1:], "other": cookie.Value, cookie.Name[1:]: cookie.Value} {
			if status := statusWith(name, value); status != 401 {
				t.Errorf("with %s=%s: %d", name, value, status)
			}
		}
		other := NewServer(&fakeBuilder{}, Options{Token: goodToken + "x"}, nil)
		if other.cookieName() == cookie.Name || other.cookieValue() == cookie.Value {
			t.Error("another token has the same cookie")
		}

		response, _ = f.do(newRequest(t, "POST", "/logout", http.Header{"Cookie": {cookie.Name + "=" + cookie.Value}}, ""))
		if location := response.Header.Get("Location"); response.StatusCode != 303 || location != "/login" {
			t.Errorf("status %d to %q", response.StatusCode, location)
		}
		if cookies := response.Cookies(); len(cookies) != 1 || cookies[0].Name != cookie.Name || cookies[0].MaxAge >= 0 || cookies[0].Value != "" {
			t.Errorf("signed out, the cookies are %v", cookies)
		}
	})
}

// TestLoginOverTLS gets a cookie that browsers send over TLS only.
func TestLoginOverTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serveTLS(t, &fakeBuilder{}, withToken)
		if cookies := f.signIn(goodToken, "/").Cookies(); len(cookies) != 1 || !cookies[0].Secure {
			t.Errorf("cookies %v", cookies)
		}
	})
}

// TestLoginRefused signs in with what is not the token.
func TestLoginRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, &fakeBuilder{}, withToken)
		for _, token := range []string{"", "wrong", goodToken + "x", goodToken + strings.Repeat(" ", maxLogin)} {
			response := f.signIn(token, "/new")
			location := response.Header.Get("Location")
			if response.StatusCode != 303 || !strings.HasPrefix(location, "/login?next=%2F") || !strings.HasSuffix(location, "&wrong=1") || len(response.Cookies()) != 0 {
				t.Errorf("%.40q: status %d to %q, cookies %v", token, response.StatusCode, location, response.Cookies())
			}
		}
		if log := f.loggedText(); strings.Count(log, "sign-in with a wrong token") != 4 || strings.Contains(log, goodToken) {
			t.Errorf("the log is %s", log)
		}
		// The token counts in the form only, where it is not to be seen in the server's logs.
		response, _ := f.do(newRequest(t, "POST", "/login?token="+goodToken, nil, ""))
		if len(response.Cookies()) != 0 {
			t.Error("the token counts in the URL")
		}
	})
}

// TestLoginNext has a browser be sent to where it wanted to go, which is a path of the
// builder's own.
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
		"/jobs#top":                 "/jobs",
		"//user@evil.example/a?b=c": "/",
	} {
		if got := localPath(next); got != want {
			t.Errorf("%q leads to %q, want %q", next, got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, &fakeBuilder{}, withToken)
		if location := f.signIn(goodToken, "//evil.example").Header.Get("Location"); location != "/" {
			t.Errorf("sent to %q", location)
		}
		// Who looks at a page without the token comes back to it.
		response, _ := f.do(newRequest(t, "GET", "/jobs/x?a=1", http.Header{"Accept": {"text/html"}}, ""))
		if location := response.Header.Get("Location"); location != "/login?next=%2Fjobs%2Fx%3Fa%3D1" {
			t.Errorf("sent to %q", location)
		}
	})
}

// TestSlowLogin sends half a form.
func TestSlowLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
		if took := time.Since(begun); took != loginTimeout {
			t.Errorf("it took %s", took)
		}
	})
}
