// Package auth decides which HTTP requests the builder serves.
//
// A Guard makes four checks:
//   - The request has the builder's token (this file), or the cookie that a browser gets for it (login.go).
//   - It does not come from a page of another origin (origin.go).
//   - If no token is set, its Host is a name that nobody else can own (origin.go).
//   - It does not come from a network that jobs are connected to (this file).
package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/gorilla/websocket"
)

// The reasons for which a Guard rejects a request, as values of a metric's label.
const (
	RefusedToken   = "unauthorized" // the token is missing or wrong
	RefusedOrigin  = "origin"       // the request comes from a page of another origin
	RefusedNetwork = "from-a-job"   // the request comes from a network that jobs are connected to
)

// Bearer is the scheme of a token in an Authorization header (RFC 6750), and a WebSocket
// subprotocol. A browser's page cannot set headers for a WebSocket, so it offers Bearer as a
// subprotocol and the token as the next one. The server must accept Bearer.
const Bearer = "bearer"

// Options are the settings of a Guard.
type Options struct {
	// Token is the token that a client must show. If it is empty, clients need none.
	Token string
	// AllowedOrigins are the origins of pages that may connect, such as https://example.com.
	// Pages of the server's own origin always may.
	AllowedOrigins []string
	// IsOfJobs reports whether a client can be a job, by its address and that of the server at
	// which it has connected. Such clients are rejected. IsOfJobs may be nil: then no client is.
	IsOfJobs func(client, server netip.Addr) bool
}

// A Guard rejects requests that may not be served.
type Guard struct {
	options Options
	log     *slog.Logger
}

// New returns a Guard. It logs logins with a wrong token.
func New(options Options, log *slog.Logger) *Guard { return &Guard{options: options, log: log} }

// Check answers a request that lacks the token (401) or comes from a page of another origin
// (403), and returns RefusedToken or RefusedOrigin. It leaves every other request alone and
// returns "".
func (g *Guard) Check(w http.ResponseWriter, r *http.Request) (reason string) {
	switch {
	case !g.hasToken(r):
		rejectToken(w)
		return RefusedToken
	case !g.isAllowedOrigin(r):
		rejectOrigin(w)
		return RefusedOrigin
	}
	return ""
}

// CheckNetwork answers a request that comes from an address that a job can have (403), and
// returns RefusedNetwork. It leaves every other request alone and returns "".
//
// Clients that use a published port of the builder's container may all have the address of that network's
// gateway. CheckNetwork cannot distinguish them.
func (g *Guard) CheckNetwork(w http.ResponseWriter, r *http.Request) (reason string) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	var to netip.AddrPort
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		to, _ = netip.ParseAddrPort(local.String())
	}
	if !g.isOfJobs(from.Addr(), to.Addr()) {
		return ""
	}
	http.Error(w, "The builder accepts no clients from the network of its jobs.", http.StatusForbidden)
	return RefusedNetwork
}

// isOfJobs reports whether a client can be a job. A link-local address says nothing but the interface that it is
// on: it is a job's if that interface is the jobs' network, in which the machine has an address itself.
func (g *Guard) isOfJobs(client, server netip.Addr) bool {
	if g.options.IsOfJobs == nil {
		return false
	}
	if g.options.IsOfJobs(client.WithZone(""), server.WithZone("")) {
		return true
	}
	on, err := net.InterfaceByName(client.Zone())
	if err != nil { // it has no zone; or the interface is not known, as under systemd without AF_NETLINK: it may be theirs
		return client.Zone() != ""
	}
	own, err := on.Addrs()
	return err == nil && slices.ContainsFunc(own, func(own net.Addr) bool {
		prefix, err := netip.ParsePrefix(own.String())
		return err == nil && g.options.IsOfJobs(prefix.Addr().Unmap(), prefix.Addr().Unmap())
	})
}

func rejectToken(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", "Bearer")
	http.Error(w, "The builder's token is missing or wrong: send it as Authorization: Bearer TOKEN.", http.StatusUnauthorized)
}

// hasToken reports whether a request shows the token or the cookie, or no token is set.
func (g *Guard) hasToken(r *http.Request) bool {
	if g.options.Token == "" || g.hasCookie(r) {
		return true
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, Bearer) { // there is none, or it is for a proxy in front of the server
		protocols := websocket.Subprotocols(r)
		if at := slices.Index(protocols, Bearer); at >= 0 && at+1 < len(protocols) {
			scheme, token = Bearer, protocols[at+1]
		}
	}
	return strings.EqualFold(scheme, Bearer) && g.isToken(token)
}

// isToken compares digests, not texts, so that the time that it takes reveals nothing about the token: all digests
// have the same length, and a digest that is partly right says nothing about the token.
func (g *Guard) isToken(text string) bool {
	got, want := sha256.Sum256([]byte(text)), sha256.Sum256([]byte(g.options.Token))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1
}
