package wsapi

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
	// maxLogin bounds the bytes of a form with a token, and loginTimeout how long it may take
	// to come.
	maxLogin     = 8 << 10
	loginTimeout = 10 * time.Second
)

// cookieValue is made of the token, so that the cookie of one who has known the token counts
// as long as the token does, and the token itself stays out of the browser.
func (s *Server) cookieValue() string {
	mac := hmac.New(sha256.New, []byte(s.options.Token))
	mac.Write([]byte("the page of Iglu Builder"))
	return hex.EncodeToString(mac.Sum(nil))
}

// cookieName is another one for each token: browsers send a host's cookies to all its ports,
// where other builders may listen.
func (s *Server) cookieName() string { return "iglu-builder-" + s.cookieValue()[:8] }

// hasCookie reports whether a browser has signed in.
func (s *Server) hasCookie(r *http.Request) bool {
	c, err := r.Cookie(s.cookieName())
	return err == nil && hmac.Equal([]byte(c.Value), []byte(s.cookieValue()))
}

// servePage passes requests on to the page. Without the token, only the form that asks for it
// can be read: who wants to look at something else is sent there.
func (s *Server) servePage(w http.ResponseWriter, r *http.Request) {
	isRead := r.Method == http.MethodGet || r.Method == http.MethodHead
	isOpen := r.URL.Path == "/login" || strings.HasPrefix(r.URL.Path, "/assets/")
	switch {
	case !isRead:
		if s.turnAway(w, r) == "" {
			s.options.Page.ServeHTTP(w, r)
		}
	case isOpen || s.hasToken(r):
		s.options.Page.ServeHTTP(w, r)
	case strings.Contains(r.Header.Get("Accept"), "text/html"):
		http.Redirect(w, r, "/login?"+url.Values{"next": {r.URL.RequestURI()}}.Encode(), http.StatusSeeOther)
	default:
		askForToken(w)
	}
}

// serveLogin takes a token from a form and gives the browser what stands for it.
func (s *Server) serveLogin(w http.ResponseWriter, r *http.Request) {
	if !s.isAllowedOrigin(r) {
		refuseOrigin(w)
		return
	}
	// Until the form is there, it is the client's turn.
	guestOf(r).answers(false)
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(loginTimeout))
	r.Body = http.MaxBytesReader(w, r.Body, maxLogin)
	next := localPath(r.PostFormValue("next"))
	guestOf(r).answers(true)
	if !s.isToken(strings.TrimSpace(r.PostFormValue("token"))) {
		s.log.Warn("sign-in with a wrong token", "client", r.RemoteAddr)
		http.Redirect(w, r, "/login?"+url.Values{"wrong": {"1"}, "next": {next}}.Encode(), http.StatusSeeOther)
		return
	}
	s.setCookie(w, r, s.cookieValue(), 0)
	http.Redirect(w, r, next, http.StatusSeeOther)
}

// serveLogout has the browser forget.
func (s *Server) serveLogout(w http.ResponseWriter, r *http.Request) {
	if !s.isAllowedOrigin(r) {
		refuseOrigin(w)
		return
	}
	s.setCookie(w, r, "", -1)
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

func (s *Server) setCookie(w http.ResponseWriter, r *http.Request, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{Name: s.cookieName(), Value: value, Path: "/", MaxAge: maxAge,
		Secure: r.TLS != nil, HttpOnly: true, SameSite: http.SameSiteStrictMode})
}

// localPath returns where a browser may be sent after it has signed in: a path of the
// builder's own, whatever it was asked for.
func localPath(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") ||
		strings.ContainsAny(text, "\\\r\n\t") {
		return "/"
	}
	return u.RequestURI()
}
