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
		http.Redirect(w, r, "/login?"+url.Values{"wrong": {"1"}, "next": {next}}.Encode(), http.StatusSeeOther)
		return
	}
	g.setCookie(w, r, g.cookieValue(), 0)
	http.Redirect(w, r, next, http.StatusSeeOther)
}

// ServeLogout answers POST /logout: it deletes the cookie. It answers 403 to pages of another
// origin.
func (g *Guard) ServeLogout(w http.ResponseWriter, r *http.Request) {
	if !g.isAllowedOrigin(r) {
		rejectOrigin(w)
		return
	}
	g.setCookie(w, r, "", -1)
	http.Redirect(w, r, "/login", http.StatusSeeOther)
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
			http.Redirect(w, r, "/login?"+url.Values{"next": {r.URL.RequestURI()}}.Encode(), http.StatusSeeOther)
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
		Secure: r.TLS != nil, HttpOnly: true, SameSite: http.SameSiteStrictMode})
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
	return u.RequestURI()
}
