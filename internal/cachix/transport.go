package cachix

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// A transport makes single attempts at calls to a cache. Its errors contain no secrets.
type transport struct {
	options Options
	token   string
	secrets *strings.Replacer
	home    *url.URL // the cache's address
	shown   string   // the same, for errors
	api     string   // …/api/v1/cache/NAME
	http    *http.Client
	hosts   *hosts
}

// newTransport returns a transport to the cache at an address that parseTarget has returned.
func newTransport(at *url.URL, token string, options Options, pin *pin) *transport {
	host, name := at.String(), ""
	if i := strings.LastIndexByte(host, '/'); i >= 0 {
		host, name = host[:i], host[i+1:]
	}
	return &transport{
		options: options,
		token:   token,
		secrets: secretReplacer(token),
		home:    at,
		shown:   at.String(),
		api:     host + "/api/v1/cache/" + name,
		http:    newHTTPClient(options, pin),
		hosts:   &hosts{options: options},
	}
}

// All calls to a host that speaks HTTP/2 share a connection. If nothing has arrived on it for a time of silence, it is
// checked with a ping, and closed if that is not answered in time. Without that, all calls would wait for their time limits
// on a connection that a router has forgotten, again and again. Both together are much shorter than Options.RetryFor. Over
// a slow line, a ping waits behind parts.
const (
	silence     = 15 * time.Second
	pingTimeout = 30 * time.Second
)

// newHTTPClient returns a client that keeps as many connections open as are used at the same time, and follows no
// redirects.
func newHTTPClient(options Options, pin *pin) *http.Client {
	connections := options.Uploads + options.Parts
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if options.Dial != nil {
		transport.DialContext = options.Dial
	}
	transport.DialContext = pin.over(transport.DialContext)
	transport.MaxIdleConns = 2 * connections
	transport.MaxIdleConnsPerHost = connections
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: silence, PingTimeout: pingTimeout}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// A call is a request of the protocol with its answer.
type call struct {
	doing  string // for errors: "start the upload of NAME to"
	method string
	url    string
	body   any  // sent as JSON; nil: no body
	answer any  // the answer's JSON is decoded into it; nil: the answer has none
	lookUp bool // it asks for the cache's properties

	extra time.Duration // the time that an attempt may take in addition to Options.CallTimeout
}

// lookUp returns the call that asks for the cache's properties.
func (t *transport) lookUp(cache *Cache) call {
	return call{doing: "look up the cache", method: http.MethodGet, url: t.api, answer: cache, lookUp: true}
}

// once makes one attempt at a call.
func (t *transport) once(ctx context.Context, call call) error {
	var body []byte
	if call.body != nil {
		var err error
		if body, err = json.Marshal(call.body); err != nil {
			return fmt.Errorf("%s: %w", call.doing, err)
		}
	}
	attempt, cancel := context.WithTimeout(ctx, t.options.CallTimeout+call.extra)
	defer cancel()
	request, err := http.NewRequestWithContext(attempt, call.method, call.url, bytes.NewReader(body))
	if err != nil {
		return t.failed(ctx, call.doing, nil, err)
	}
	if call.body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	request.Header.Set("Accept", "application/json")
	t.authorize(request)
	response, text, err := t.exchange(request)
	if err != nil {
		return t.failed(ctx, call.doing, request, err)
	}
	if response.StatusCode/100 != 2 {
		failure := t.answered(call.doing, response, text)
		failure.lookUp = call.lookUp
		return failure
	}
	if call.answer == nil {
		t.hosts.answered(request.URL.Host)
		return nil
	}
	if json.Unmarshal(text, call.answer) != nil {
		return &Error{Kind: NotCachix, Doing: call.doing, Cache: t.shown, Status: response.StatusCode, Detail: t.excerpt(text)}
	}
	t.hosts.answered(request.URL.Host)
	return nil
}

// authorize adds the API key and the user agent.
func (t *transport) authorize(request *http.Request) {
	if t.token != "" {
		request.Header.Set("Authorization", "Bearer "+t.token)
	}
}

// maxAnswer is how many bytes of an answer are read. The longest answers are narinfos: a path can have thousands of
// references, with up to 245 bytes for each.
const maxAnswer = 2 << 20

// exchange sends a request and reads the answer, with any status.
func (t *transport) exchange(request *http.Request) (*http.Response, []byte, error) {
	request.Header.Set("User-Agent", userAgent)
	response, err := t.http.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	return response, text, err
}

// userAgent identifies this program in a server's log.
const userAgent = "iglu-builder"

// isOurs reports whether the API key may be sent to an address: it must be on the host for which the key was given,
// or on a subdomain, such as NAME.cachix.org for cachix.org.
func (t *transport) isOurs(at *url.URL) bool {
	host, home := plainHost(at), plainHost(t.home)
	return at.Scheme == t.home.Scheme && (host == home || strings.HasSuffix(host, "."+home))
}

// plainHost returns a URL's host and port in one of the ways in which they can be written: in small letters, and without
// the port of the scheme.
func plainHost(u *url.URL) string {
	ports := map[string]string{"http": ":80", "https": ":443"}
	return strings.TrimSuffix(strings.ToLower(u.Host), ports[u.Scheme])
}
