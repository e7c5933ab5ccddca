package buildclient

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"iglu.sh/builder/schemas"
)

// EnvURL is the variable that holds the builder's address where the flag --url is not given.
const EnvURL = "IGLU_URL"

// webSocketSchemes are the schemes that an address may have, and what a WebSocket calls them.
var webSocketSchemes = map[string]string{"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}

// ParseAddress reads the address of a builder: a URL, or HOST:PORT, which means ws://HOST:PORT.
// The URL that it returns has the scheme ws or wss, and the builder's own path if the address
// has none. Its error says what is right, and holds no password.
func ParseAddress(text string) (*url.URL, error) {
	hasScheme := strings.Contains(text, "://")
	full := text
	if !hasScheme {
		full = "ws://" + text
	}
	u, err := url.Parse(full)
	if err == nil && u.User != nil || err != nil && strings.Contains(text, "@") {
		return nil, errors.New("the address of a builder has no user name and no password: a builder takes a token")
	}
	if err != nil || webSocketSchemes[u.Scheme] == "" || u.Hostname() == "" || !isPort(u.Port(), hasScheme) {
		return nil, fmt.Errorf("%q is not the address of a builder: give HOST:PORT, such as 127.0.0.1:3000, or a URL, such as wss://builder.example.com", text)
	}
	u.Scheme = webSocketSchemes[u.Scheme]
	if u.Path == "" || u.Path == "/" {
		u.Path = schemas.BuildPath
	}
	return u, nil
}

// isPort reports whether an address may have a port. Only a URL may have none: its scheme has
// one.
func isPort(port string, optional bool) bool {
	if port == "" {
		return optional
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}
