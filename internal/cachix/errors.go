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

// A Kind is what has gone wrong, in a sentence for whoever set the cache up:
// errors.Is(err, cachix.KeyRefused).
type Kind string

// The kinds of error that the methods of a Client return.
const (
	KeyRefused   Kind = "the cache does not accept the API key"
	NoCache      Kind = "there is no such cache"
	NoSigningKey Kind = "the cache has no public signing key yet; register one, for example with 'cachix generate-keypair'"
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

// An Error is what went wrong between us and a cache. It holds neither the API key
// nor the address of an upload nor a signing key, and neither does what it wraps.
type Error struct {
	Kind   Kind
	Doing  string // what the call was for, such as "look up the cache"
	Cache  string // the cache's address
	Status int    // of HTTP; 0 where there was no answer or it was not the point
	Detail string // more about it, or nothing; the server's own words are among it
	Cause  error  // of the network, or nil

	host       string        // which the call went to
	lookUp     bool          // the call was to ask what the cache is
	again      bool          // trying once more may help
	away       bool          // that is so because the host may be away for a while
	after      time.Duration // how long the server asks to wait before that
	stayedAway bool          // the host was away for as long as is waited for one
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

// Unwrap returns what the network said.
func (e *Error) Unwrap() error { return e.Cause }

// failed makes the error of a call that got no whole answer. err is the HTTP client's, and
// request is nil where there was none to send.
func (t *transport) failed(ctx context.Context, doing string, request *http.Request, err error) error {
	if ctx.Err() != nil { // ours, not the attempt's
		return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
	}
	// It holds the address, which can be a secret.
	if wrapper, ok := errors.AsType[*url.Error](err); ok {
		err = wrapper.Err
	}
	failure := &Error{Kind: Unreachable, Doing: doing, Cache: t.shown, Cause: err}
	if request == nil {
		return failure
	}
	failure.host, failure.again, failure.away = request.URL.Host, true, true
	if errors.Is(err, context.DeadlineExceeded) {
		failure.Kind, failure.Cause = TimedOut, nil
	}
	// The name of a container is gone for as long as that does not run.
	if lookup, ok := errors.AsType[*net.DNSError](err); ok && lookup.IsNotFound && !t.hosts.has(failure.host) {
		failure.again = false
	}
	return failure
}

// answered makes the error of an answer that is not the one wanted.
func (t *transport) answered(doing string, response *http.Response, body []byte) *Error {
	failure := &Error{Kind: Refused, Doing: doing, Cache: t.shown, Status: response.StatusCode, Detail: t.excerpt(body),
		host: response.Request.URL.Host}
	switch status := response.StatusCode; {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		failure.Kind = KeyRefused
	case status == http.StatusTooManyRequests:
		failure.Kind, failure.again = Busy, true
	case status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout:
		failure.Kind, failure.again, failure.away = Failing, true, true
	case status >= 500:
		failure.Kind, failure.again = Failing, true
	case status < 400:
		failure.Kind, failure.Detail = NotCachix, redirection(response)
	}
	if failure.again {
		failure.after = retryAfter(response.Header.Get("Retry-After"), time.Now())
	}
	return failure
}

// redirection says where an answer sends us, without the path and the query, which
// can hold secrets. A redirection is not followed: the API key stays with the host
// that it was given for.
func redirection(response *http.Response) string {
	to, err := response.Location()
	if err != nil {
		return ""
	}
	return fmt.Sprintf("it redirects to %s://%s", to.Scheme, to.Host)
}

// maxExcerpt is how many characters of a server's answer an error repeats.
const maxExcerpt = 200

// queries are the parts of addresses in a text that can hold secrets.
var queries = lazyregexp.New(`\?\S+|//[^/\s@]+@`)

// excerpt returns the beginning of what a server says, on one line, without what
// must not be repeated.
func (t *transport) excerpt(body []byte) string {
	text := t.secrets.Replace(string(body))
	text = queries().ReplaceAllString(text, "?…")
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	runes := []rune(strings.Join(strings.Fields(text), " "))
	if len(runes) > maxExcerpt {
		return string(runes[:maxExcerpt]) + "…"
	}
	return string(runes)
}

// secretReplacer replaces the token in the forms in which it comes in a text.
func secretReplacer(token string) *strings.Replacer {
	if token == "" {
		return strings.NewReplacer()
	}
	const mask = "***"
	return strings.NewReplacer(token, mask, url.QueryEscape(token), mask, url.PathEscape(token), mask)
}
