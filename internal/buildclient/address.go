package buildclient

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"iglu.sh/builder/schemas"
)

// EnvURL is the environment variable with the builder's address, used if the flag --url is not set.
const EnvURL = "IGLU_URL"

// webSocketSchemes maps the schemes that an address may have to those of WebSockets.
var webSocketSchemes = map[string]string{"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}

// ParseAddress reads the address of a builder: a URL, or HOST:PORT, which means ws://HOST:PORT.
// The returned URL is that of the builder's WebSocket, with the scheme ws or wss. A path before the WebSocket's
// own is kept: a proxy may need it. An error says what an address must be, and contains no password.
func ParseAddress(text string) (*url.URL, error) {
	hasScheme := strings.Contains(text, "://")
	full := text
	if !hasScheme {
		full = "ws://" + text
	}
	u, err := url.Parse(full)
	if err == nil && u.User != nil || err != nil && strings.Contains(text, "@") {
		return nil, errors.New("the address of a builder has no user name and no password: use a token")
	}
	if err != nil || webSocketSchemes[u.Scheme] == "" || u.Hostname() == "" || !isPort(u.Port(), hasScheme) || strings.ContainsAny(text, "?#") {
		return nil, fmt.Errorf("%q is not the address of a builder: give HOST:PORT, such as 127.0.0.1:3000, or a URL, such as wss://builder.example.com", text)
	}
	u.Scheme = webSocketSchemes[u.Scheme]
	before := strings.TrimSuffix(strings.TrimRight(u.Path, "/"), schemas.BuildPath)
	u.Path = strings.TrimRight(before, "/") + schemas.BuildPath
	return u, nil
}

// isPort reports whether a port is valid. It may be empty only in a URL, whose scheme has a default port.
func isPort(port string, optional bool) bool {
	if port == "" {
		return optional
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}
