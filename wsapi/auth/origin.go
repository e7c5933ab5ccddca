package auth

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// KnownHost is the host check: it returns a handler that passes requests on to next. Where no
// token is set, it answers 403 to requests whose Host is a name that somebody else can own. A
// page on the internet can let a name of its own resolve to this server (DNS rebinding); the
// browser would then treat the server's answers as the page's own.
func (g *Guard) KnownHost(next http.HandlerFunc) http.HandlerFunc {
	if g.options.Token != "" {
		return next
	}
	return func(w http.ResponseWriter, r *http.Request) {
		isOwn := func(origin string) bool { return isOf(origin, r.Host) }
		if !isLocalName(r.Host) && !slices.ContainsFunc(g.options.AllowedOrigins, isOwn) {
			http.Error(w, "This builder has no token, so it accepts only requests for an address or for a name without a dot:"+
				" set IGLU_TOKEN_FILE, or add this origin to IGLU_ALLOWED_ORIGINS.", http.StatusForbidden)
			return
		}
		next(w, r)
	}
}

// isLocalName reports whether nobody on the internet can own a host, which may have a port.
// That is true for an address, for a name below localhost (RFC 6761, section 6.3), and for a
// name without a dot. A name without a dot belongs to the local network, as the names of
// containers do, or is a top-level domain.
func isLocalName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || !strings.Contains(host, ".") || strings.HasSuffix(strings.ToLower(host), ".localhost")
}

// isAllowedOrigin is the origin check: it reports whether a browser's page may connect. A client
// that is not a browser sends no Origin and may.
//
// A page has the server's own origin if its host is the server's. Over TLS, the page's scheme
// must be https as well: anyone on the network path can forge an http page of that host.
// Without TLS, any scheme will do, because a proxy in front of the server may add TLS.
func (g *Guard) isAllowedOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	isEncrypted := strings.HasPrefix(strings.ToLower(origin), "https://")
	if origin == "" || isOf(origin, r.Host) && (isEncrypted || r.TLS == nil) {
		return true
	}
	return slices.ContainsFunc(g.options.AllowedOrigins, func(allowed string) bool { return isSame(allowed, origin) })
}

// isSame reports whether two texts are the same origin.
func isSame(origin, other string) bool {
	scheme, _, _ := strings.Cut(origin, "://")
	otherScheme, host, _ := strings.Cut(other, "://")
	return strings.EqualFold(scheme, otherScheme) && isOf(origin, host)
}

func rejectOrigin(w http.ResponseWriter) {
	http.Error(w, "Pages of this origin may not use the builder (IGLU_ALLOWED_ORIGINS).", http.StatusForbidden)
}

// isOf reports whether an origin is that of a host, which may have a port. The origin "null" has no host, and
// an HTTP/1.0 request need not send one: these two are not the same.
//
// The default port of the origin's scheme is the same as none: browsers leave it out, but a proxy may add it
// to the host, as nginx does with $host:$server_port.
func isOf(origin, host string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	port := map[string]string{"http": ":80", "https": ":443"}[u.Scheme]
	return strings.EqualFold(strings.TrimSuffix(u.Host, port), strings.TrimSuffix(host, port))
}
