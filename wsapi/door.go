package wsapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/gorilla/websocket"
)

// bearer is the scheme of a token in a header (RFC 6750). Browsers cannot set a header for a
// WebSocket: they name it as a protocol, and the token as the next one.
const bearer = "bearer"

// turnAway answers a request that comes without the token or from a page of another origin,
// and returns which of the two it is, as one of Refusals. Any other it leaves alone, and returns
// "".
func (s *Server) turnAway(w http.ResponseWriter, r *http.Request) (reason string) {
	switch {
	case !s.hasToken(r):
		askForToken(w)
		return refusedToken
	case !s.isAllowedOrigin(r):
		refuseOrigin(w)
		return refusedOrigin
	}
	return ""
}

// comesFromJob reports whether a request comes from an address that a job can have. What comes by a
// published port of a container has the address of that network's gateway, whoever sends it.
func (s *Server) comesFromJob(r *http.Request) bool {
	if s.options.IsOfJobs == nil {
		return false
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && s.options.IsOfJobs(from.Addr())
}

func askForToken(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", "Bearer")
	http.Error(w, "The builder's token is missing or wrong: send it as Authorization: Bearer TOKEN.", http.StatusUnauthorized)
}

func refuseOrigin(w http.ResponseWriter) {
	http.Error(w, "Pages of this origin may not use the builder (IGLU_ALLOWED_ORIGINS).", http.StatusForbidden)
}

// hasToken reports whether a request shows the token, or what a browser has got for it.
func (s *Server) hasToken(r *http.Request) bool {
	if s.options.Token == "" || s.hasCookie(r) {
		return true
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if protocols := websocket.Subprotocols(r); scheme == "" {
		if at := slices.Index(protocols, bearer); at >= 0 && at+1 < len(protocols) {
			scheme, token = bearer, protocols[at+1]
		}
	}
	return strings.EqualFold(scheme, bearer) && s.isToken(token)
}

func (s *Server) isToken(text string) bool {
	// Digests are of one length, and how many bytes of them are alike says nothing.
	got, want := sha256.Sum256([]byte(text)), sha256.Sum256([]byte(s.options.Token))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

// isAllowedOrigin reports whether a browser's page may connect. What is not a browser names
// no origin. Where the server has encryption, a page of its own name without is none of its own:
// who is on the way can write that. Where it has none, there may be a proxy before it that has.
func (s *Server) isAllowedOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	isEncrypted := strings.HasPrefix(strings.ToLower(origin), "https://")
	if origin == "" || isOf(origin, r.Host) && (isEncrypted || r.TLS == nil) {
		return true
	}
	return slices.ContainsFunc(s.options.AllowedOrigins, func(allowed string) bool { return strings.EqualFold(allowed, origin) })
}
