package cachix

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"iglu.sh/builder/internal/lazyregexp"
)

// A Kind is a kind of error, as a sentence for the person who configured the cache. It is used as in
// errors.Is(err, cachix.KeyRefused).
type Kind string

// The kinds of errors that the methods of a Client return.
const (
	KeyRefused   Kind = "the cache does not accept the API key"
	NoCache      Kind = "there is no such cache"
	NoSigningKey Kind = "the cache has no public signing key yet; register one, for example with 'cachix generate-keypair'"
	TooManyKeys  Kind = "the cache has too many public signing keys"
	Unreachable  Kind = "the cache cannot be reached"
	TimedOut     Kind = "the cache does not answer in time"
	Busy         Kind = "the cache asks to come back later"
	Failing      Kind = "the cache fails"
	Refused      Kind = "the cache refuses it"
	NotCachix    Kind = "that is no answer of a cachix-compatible cache; check the address"
	WrongNar     Kind = "the archive is not what the store has on record"
	NotAsPushed  Kind = "the cache does not show what was pushed"
)

func (k Kind) Error() string { return string(k) }

// An Error is an error in a call to a cache. Neither it nor the errors that it wraps contain the API key,
// the address of an upload or a signing key.
type Error struct {
	Kind   Kind
	Doing  string // the purpose of the call, such as "look up the cache"
	Cache  string // the cache's address
	Status int    // the HTTP status; 0 if there was no answer, or if the status was right
	Detail string // details, such as the server's message; may be empty
	Cause  error  // the error of the network, or nil

	host       string        // to which the call was made
	lookUp     bool          // the call asked for the cache's properties
	again      bool          // another attempt may succeed
	away       bool          // the reason is that the host may be down for a while
	after      time.Duration // the pause that the server asks for
	stayedAway bool          // the host was down for the whole of Options.RetryFor
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s %s: %s", e.Doing, e.Cache, e.Kind)
	if e.Status != 0 {
		text += fmt.Sprintf(" (HTTP %d)", e.Status)
	}
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

// Is makes errors.Is(err, kind) true for the error's kind.
func (e *Error) Is(target error) bool { return target == error(e.Kind) }

// Unwrap returns the error of the network, or nil.
func (e *Error) Unwrap() error { return e.Cause }

// failed returns the error for a call without a complete answer. err is the HTTP client's error. request is
// nil if no request could be made.
func (t *transport) failed(ctx context.Context, doing string, request *http.Request, err error) error {
	if ctx.Err() != nil { // the caller's context, not that of the attempt
		return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
	}
	// A url.Error contains the address, which can be a secret.
	if wrapper, ok := errors.AsType[*url.Error](err); ok {
		err = wrapper.Err
	}
	failure := &Error{Kind: Unreachable, Doing: doing, Cache: t.shown, Cause: t.harmless(err)}
	if request == nil {
		return failure
	}
	// The other connections may have been lost in the same way, and the next attempt would have to find out.
	t.http.CloseIdleConnections()
	failure.host, failure.again, failure.away = request.URL.Host, true, true
	if errors.Is(err, context.DeadlineExceeded) {
		failure.Kind, failure.Cause = TimedOut, nil
	}
	// The name of a container cannot be resolved while the container is not running.
	if lookup, ok := errors.AsType[*net.DNSError](err); ok && lookup.IsNotFound && !t.hosts.has(failure.host) {
		failure.again = false
	}
	return failure
}

// answered returns the error for an unexpected answer.
func (t *transport) answered(doing string, response *http.Response, body []byte) *Error {
	failure := &Error{Kind: Refused, Doing: doing, Cache: t.shown, Status: response.StatusCode, Detail: t.excerpt(body),
		host: response.Request.URL.Host}
	switch status := response.StatusCode; {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		failure.Kind = KeyRefused
	case status == http.StatusTooManyRequests:
		failure.Kind, failure.again = Busy, true
	case status == http.StatusRequestTimeout: // the request did not arrive in time
		failure.again = true
	case isFromProxy(status):
		failure.Kind, failure.again, failure.away = Failing, true, true
	case status >= 500:
		failure.Kind, failure.again = Failing, true
	case status < 400:
		failure.Kind, failure.Detail = NotCachix, t.masked(redirection(response))
	}
	if failure.again {
		failure.after = retryAfter(response.Header.Get("Retry-After"), time.Now())
	}
	return failure
}

// isFromProxy reports whether a status says that the server behind a proxy is down, cannot be reached or does not answer.
// Cloudflare has statuses of its own for that: 520 to 526, and 530 if a tunnel has ended.
func isFromProxy(status int) bool {
	switch status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return status >= 520 && status <= 530
}

// redirection returns the target of a redirect, without path and query, which can contain secrets. Redirects
// are not followed, so that the API key is sent only to the host for which it was given.
func redirection(response *http.Response) string {
	to, err := response.Location()
	if err != nil {
		return ""
	}
	return fmt.Sprintf("it redirects to %s://%s", to.Scheme, to.Host)
}

// maxExcerpt is how many characters of a server's answer an error repeats.
const maxExcerpt = 200

// queries and users match the parts of addresses that can contain secrets.
var (
	queries = lazyregexp.New(`\?\S+`)
	users   = lazyregexp.New(`//[^/\s]+@`)
)

// excerpt returns the beginning of a server's message, on one line and without secrets.
func (t *transport) excerpt(body []byte) string {
	text := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, t.masked(string(body)))
	runes := []rune(strings.Join(strings.Fields(text), " "))
	if len(runes) > maxExcerpt {
		return string(runes[:maxExcerpt]) + "…"
	}
	return string(runes)
}

// harmless returns an error of the network. Some repeat what the server has said, which can contain secrets: it returns
// these without them, as another error.
func (t *transport) harmless(err error) error {
	if text := err.Error(); t.masked(text) != text {
		return errors.New(t.masked(text))
	}
	return err
}

// masked returns a text without what can be a secret.
func (t *transport) masked(text string) string {
	text = queries().ReplaceAllString(t.secrets.Replace(text), "?…")
	return users().ReplaceAllString(text, "//…@")
}

// secretReplacer masks the token in all forms in which a text may contain it.
func secretReplacer(token string) *strings.Replacer {
	if token == "" {
		return strings.NewReplacer()
	}
	const mask = "***"
	return strings.NewReplacer(token, mask, url.QueryEscape(token), mask, url.PathEscape(token), mask)
}
