package cachix

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// A reader reads a cache as Nix does. It finds out where the cache can be read, and reads the narinfo of a path
// and the beginning of its archive.
type reader struct {
	transport *transport
	retrier   *retrier
	at        string // the address of the narinfos; see locate
}

// verifying returns the purpose of a call, for errors.
func (r *reader) verifying(p Path) string { return "read back " + p.Name() + " from" }

// verify makes one attempt at Client.Verify.
func (r *reader) verify(ctx context.Context, p Path, pushed Pushed, keys []ed25519.PublicKey) error {
	return r.check(ctx, p, func(fields narInfoFields) error { return fields.compare(p, pushed, keys) })
}

// has makes one attempt at Client.Has.
func (r *reader) has(ctx context.Context, p Path, keys []ed25519.PublicKey) error {
	return r.check(ctx, p, func(fields narInfoFields) error {
		if len(keys) > 0 { // else nothing shows that the cache's narinfo is right
			p = fields.ofItsBuild(p)
		}
		return fields.compare(p, Pushed{}, keys)
	})
}

// hasOther makes one attempt at Client.HasOther.
func (r *reader) hasOther(ctx context.Context, p Path, keys []ed25519.PublicKey) error {
	return r.check(ctx, p, func(fields narInfoFields) error {
		other := fields.ofItsBuild(p)
		if other.NarHash == p.NarHash {
			return errors.New("its NarHash is that of this build")
		}
		return fields.compare(other, Pushed{}, keys)
	})
}

// check reads the narinfo of a path, and checks it and that the archive exists.
func (r *reader) check(ctx context.Context, p Path, compare func(fields narInfoFields) error) error {
	text, err := r.narInfo(ctx, p)
	if err != nil {
		return err
	}
	fields, err := parseNarInfo(text)
	if err == nil {
		err = compare(fields)
	}
	if err != nil {
		return &Error{Kind: NotAsPushed, Doing: r.verifying(p), Cache: r.transport.shown, Detail: r.transport.excerpt([]byte(err.Error()))}
	}
	return r.checkNar(ctx, p, fields)
}

// narInfo returns the narinfo of a path.
func (r *reader) narInfo(ctx context.Context, p Path) (string, error) {
	return r.get(ctx, r.verifying(p), r.at+"/"+p.Hash()+".narinfo")
}

// locate implements Client.Locate.
func (r *reader) locate(ctx context.Context, cache Cache) bool {
	home, elsewhere := r.at, otherAddress(cache, r.at)
	tries := 0
	err := r.retrier.retry(ctx, func() error {
		err := r.look(ctx, home)
		// Cachix, for one, has its caches elsewhere only: they are found there before the home is tried again.
		if tries++; tries == 1 && isNotFound(err) && r.looksElsewhere(ctx, elsewhere) {
			return nil
		}
		return err
	})
	if err != nil && !r.looksElsewhere(ctx, elsewhere) {
		return false
	}
	return !cache.Private || r.showsPaths(ctx)
}

// otherAddress returns the address in a cache's properties, or "" if there is none besides its home. The job's user gets
// it as a substituter, in which Nix would read a query as options, such as "trusted=1".
func otherAddress(cache Cache, home string) string {
	at := strings.TrimRight(cache.URI, "/")
	u, err := url.Parse(at)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || strings.ContainsAny(at, "?#") || at == home {
		return ""
	}
	return at
}

// look returns nil if a cache can be read at an address.
func (r *reader) look(ctx context.Context, at string) error {
	const doing = "look for the contents of"
	text, err := r.get(ctx, doing, at+"/nix-cache-info")
	if err == nil && !strings.Contains(text, "StoreDir: "+strings.TrimRight(StoreDir, "/")) {
		err = &Error{Kind: NotCachix, Doing: doing, Cache: r.transport.shown}
	}
	return err
}

// looksElsewhere looks for the cache at another address, and keeps the address if the cache is there. It tries
// once: the address in a cache's answer can be any.
func (r *reader) looksElsewhere(ctx context.Context, at string) bool {
	if at == "" || r.look(ctx, at) != nil {
		return false
	}
	r.at = at
	return true
}

func isNotFound(err error) bool {
	failure, ok := errors.AsType[*Error](err)
	return ok && failure.Status == http.StatusNotFound
}

// showsPaths reports whether the cache can be read with the API key. A private cache of Iglu Cache cannot.
func (r *reader) showsPaths(ctx context.Context) bool {
	_, err := r.get(ctx, "look for the contents of", r.at+"/"+unlikely+".narinfo")
	return err == nil || isNotFound(err)
}

// unlikely is the hash of a path that no cache has.
var unlikely = strings.Repeat("0", 32)

// readableByNix implements Client.ReadableByNix.
func (r *reader) readableByNix(ctx context.Context) string {
	attempt, cancel := context.WithTimeout(ctx, r.transport.options.CallTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(attempt, http.MethodGet, r.at+"/"+unlikely+".narinfo", nil)
	if err != nil || !r.transport.isOurs(request.URL) {
		return ""
	}
	request.SetBasicAuth("", r.transport.token)
	if response, _, err := r.transport.exchange(request); err != nil || response.StatusCode != http.StatusNotFound {
		return ""
	}
	return r.at
}

// get returns the content at an address. It uses GET even if only the status matters, because some caches answer
// 200 to every HEAD.
func (r *reader) get(ctx context.Context, doing, address string) (string, error) {
	attempt, cancel := context.WithTimeout(ctx, r.transport.options.CallTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(attempt, http.MethodGet, address, nil)
	if err != nil {
		return "", r.transport.failed(ctx, doing, nil, err)
	}
	ours := r.transport.isOurs(request.URL)
	if ours {
		r.transport.authorize(request)
	}
	response, text, err := r.transport.exchange(request)
	if err != nil {
		return "", r.transport.failed(ctx, doing, request, err)
	}
	switch status := response.StatusCode; {
	case status == http.StatusOK:
		r.transport.hosts.answered(request.URL.Host)
		return string(text), nil
	case isNotThere(status, ours):
		return "", r.notThere(doing, request, status, "it does not have it")
	}
	failure := r.transport.answered(doing, response, text)
	if failure.Kind == KeyRefused && !ours {
		failure.Kind = Refused // it was not asked with the API key
	}
	return "", failure
}

// notThere returns the error for something that a cache does not have. Another attempt may succeed, because an
// HTTP cache in front of it can answer from an earlier request.
func (r *reader) notThere(doing string, request *http.Request, status int, detail string) *Error {
	return &Error{Kind: NotAsPushed, Doing: doing, Cache: r.transport.shown, Status: status, Detail: detail,
		host: request.URL.Host, again: true}
}

// isNotThere reports whether a status says that a host does not have something. An object store whose contents cannot be
// listed answers 403 then; Nix takes that so, too. Of a host that was asked with the API key, it is about the key.
func isNotThere(status int, ours bool) bool {
	return status == http.StatusNotFound || status == http.StatusForbidden && !ours
}
