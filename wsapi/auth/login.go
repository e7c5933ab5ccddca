package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// maxLogin is the largest login form, in bytes.
	maxLogin = 8 << 10
	// loginTimeout is how long a client may take to send the login form.
	loginTimeout = 10 * time.Second
)

// ServeLogin answers POST /login: it checks the token in a form, sets the cookie, and redirects
// the browser to the path in the form's field next. It redirects to the form again if the token
// is wrong, and answers 403 to pages of another origin.
func (g *Guard) ServeLogin(w http.ResponseWriter, r *http.Request) {
	if !g.isAllowedOrigin(r) {
		rejectOrigin(w)
		return
	}
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(loginTimeout))
	r.Body = http.MaxBytesReader(w, r.Body, maxLogin)
	next := localPath(r.PostFormValue("next"))
	if !g.isToken(strings.TrimSpace(r.PostFormValue("token"))) {
		g.log.Warn("sign-in with a wrong token", "client", r.RemoteAddr)
		redirect(w, "./login?"+url.Values{"wrong": {"1"}, "next": {next}}.Encode())
		return
	}
	g.setCookie(w, r, g.cookieValue(), 0)
	redirect(w, "."+next)
}

// ServeLogout answers POST /logout: it deletes the cookie. It answers 403 to pages of another
// origin.
func (g *Guard) ServeLogout(w http.ResponseWriter, r *http.Request) {
	if !g.isAllowedOrigin(r) {
		rejectOrigin(w)
		return
	}
	g.setCookie(w, r, "", -1)
	redirect(w, "./login")
}

// redirect redirects a browser to an address relative to the request's. An absolute one would be wrong below a path
// of a proxy, such as /builder/, which the server does not know.
func redirect(w http.ResponseWriter, address string) {
	w.Header().Set("Location", address)
	w.WriteHeader(http.StatusSeeOther)
}

// ProtectPage returns a handler that passes requests on to the page if they show the token.
// Without the token, GET works only for the login form and the files that it needs. A browser
// that asks for another document is redirected to the login form; every other client is
// answered 401.
func (g *Guard) ProtectPage(page http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		isRead := r.Method == http.MethodGet || r.Method == http.MethodHead
		isOpen := r.URL.Path == "/login" || strings.HasPrefix(r.URL.Path, "/assets/")
		switch {
		case !isRead:
			if g.Check(w, r) == "" {
				page.ServeHTTP(w, r)
			}
		case isOpen || g.hasToken(r):
			page.ServeHTTP(w, r)
		case strings.Contains(r.Header.Get("Accept"), "text/html"):
			root := "./" + strings.Repeat("../", max(0, strings.Count(r.URL.EscapedPath(), "/")-1))
			redirect(w, root+"login?"+url.Values{"next": {r.URL.RequestURI()}}.Encode())
		default:
			rejectToken(w)
		}
	}
}

// hasCookie reports whether a request has the cookie of the token.
func (g *Guard) hasCookie(r *http.Request) bool {
	c, err := r.Cookie(g.cookieName())
	return err == nil && hmac.Equal([]byte(c.Value), []byte(g.cookieValue()))
}

func (g *Guard) setCookie(w http.ResponseWriter, r *http.Request, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{Name: g.cookieName(), Value: value, Path: "/", MaxAge: maxAge,
		Secure: isEncrypted(r), HttpOnly: true, SameSite: http.SameSiteStrictMode})
}

// isEncrypted reports whether the page that has sent a form was loaded over TLS. It may be a proxy in front of the
// server that speaks TLS: then only the browser knows.
func isEncrypted(r *http.Request) bool {
	return r.TLS != nil || strings.HasPrefix(strings.ToLower(r.Header.Get("Origin")), "https://")
}

// cookieName differs between tokens: browsers send a host's cookies to all its ports, where
// other builders may listen.
func (g *Guard) cookieName() string { return "iglu-builder-" + g.cookieValue()[:8] }

// cookieValue is derived from the token: the cookie is valid for as long as the token is, and
// the browser does not store the token itself.
func (g *Guard) cookieValue() string {
	mac := hmac.New(sha256.New, []byte(g.options.Token))
	mac.Write([]byte("the page of Iglu Builder"))
	return hex.EncodeToString(mac.Sum(nil))
}

// localPath returns the path to which a browser is redirected after the login. It is text if
// that is a path on this server, and "/" otherwise.
func localPath(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") ||
		strings.ContainsAny(text, "\\\r\n\t") {
		return "/"
	}
	path := u.RequestURI()
	if u.Fragment != "" { // a line of a log: see assets/login.js
		path += "#" + u.EscapedFragment()
	}
	return path
}
