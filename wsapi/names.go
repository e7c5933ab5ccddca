package wsapi

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// OnlyByLocalNames is for a server that asks for no token because only its own machine reaches
// it: it answers but for a name that none but that machine has, or that of an allowed origin. A
// browser on the machine could open a page whose own name is made to lead to the server ("DNS
// rebinding"): to the browser, the server's answers would be the page's.
func OnlyByLocalNames(next http.Handler, allowedOrigins []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLocalName(r.Host) && !slices.ContainsFunc(allowedOrigins, func(origin string) bool { return isOf(origin, r.Host) }) {
			http.Error(w, "This builder asks for no token, and so answers only to localhost and to addresses:"+
				" set IGLU_TOKEN_FILE, or name this origin in IGLU_ALLOWED_ORIGINS.", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isLocalName reports whether a host, with or without a port, is an address or a name that
// always leads to the machine itself (RFC 6761, section 6.3).
func isLocalName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	host = strings.ToLower(host)
	return err == nil || host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// isOf reports whether an origin is that of a host.
func isOf(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, host)
}
