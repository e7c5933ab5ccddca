package wsapi

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// byKnownNames serves requests with next. Where no token is asked for, it answers 403 to those
// that call the server by a name that somebody else could own: a page on the internet can have
// a name of its own lead to this server (DNS rebinding), and the browser would then take the
// server's answers for the page's own.
func (s *Server) byKnownNames(next http.HandlerFunc) http.HandlerFunc {
	if s.options.Token != "" {
		return next
	}
	return func(w http.ResponseWriter, r *http.Request) {
		isOwn := func(origin string) bool { return isOf(origin, r.Host) }
		if !isLocalName(r.Host) && !slices.ContainsFunc(s.options.AllowedOrigins, isOwn) {
			http.Error(w, "This builder asks for no token, and so answers only to addresses and to names without a dot:"+
				" set IGLU_TOKEN_FILE, or name this origin in IGLU_ALLOWED_ORIGINS.", http.StatusForbidden)
			return
		}
		next(w, r)
	}
}

// isLocalName reports whether nobody on the internet can own a host, which may have a port. It
// is an address, a name below localhost (RFC 6761, section 6.3), or a name without a dot:
// those are of a network's own, as those of containers are, or else top-level domains.
func isLocalName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || !strings.Contains(host, ".") || strings.HasSuffix(strings.ToLower(host), ".localhost")
}

// isOf reports whether an origin is that of a host. The origin "null" has none, and a request by
// HTTP/1.0 need not say one.
func isOf(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, host)
}
