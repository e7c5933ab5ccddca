package cachix

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Verify reads back what the cache says of a path, and that its archive is there, and
// returns how that differs from what was pushed: an error of the kind NotAsPushed, or of
// those of Cache. A zero Pushed stands for a path that somebody else has pushed: its file is
// not compared. With no key, no signature is asked for.
func (c *Client) Verify(ctx context.Context, p Path, pushed Pushed, key *SigningKey) error {
	return c.retry(ctx, func() error { return c.verifyOnce(ctx, p, pushed, publicOf(key)) })
}

// Has reports whether the cache has a path, as Verify finds out, signed by one of some public
// keys, base64 each. With no keys, no signature is asked for.
func (c *Client) Has(ctx context.Context, p Path, keys ...string) (bool, error) {
	signers := publicOf(nil)
	for _, text := range keys {
		if raw, err := base64.StdEncoding.DecodeString(text); err == nil && len(raw) == ed25519.PublicKeySize {
			signers = append(signers, raw)
		}
	}
	has := false
	err := c.retry(ctx, func() error {
		err := c.verifyOnce(ctx, p, Pushed{}, signers)
		if errors.Is(err, NotAsPushed) {
			return nil
		}
		has = err == nil
		return err
	})
	return has, err
}

// publicOf returns the public half of a key, or nothing of none.
func publicOf(key *SigningKey) []ed25519.PublicKey {
	if key == nil {
		return nil
	}
	return []ed25519.PublicKey{key.public()}
}

func (c *Client) verifying(p Path) string { return "read back " + p.Name() + " from" }

func (c *Client) verifyOnce(ctx context.Context, p Path, pushed Pushed, keys []ed25519.PublicKey) error {
	text, err := c.narInfo(ctx, p)
	if err != nil {
		return err
	}
	fields, err := parseNarInfo(text)
	if err == nil {
		err = fields.compare(p, pushed, keys)
	}
	if err != nil {
		return &Error{Kind: NotAsPushed, Doing: c.verifying(p), Cache: c.shown, Detail: c.excerpt([]byte(err.Error()))}
	}
	return c.checkNar(ctx, p, fields)
}

// narInfo gets what the cache says of a path.
func (c *Client) narInfo(ctx context.Context, p Path) (string, error) {
	return c.get(ctx, c.verifying(p), c.read+"/"+p.Hash()+".narinfo")
}

// Locate finds out where the cache can be read, for Verify: where it is pushed to, or
// where it says that it is. Without that, or where a private cache does not let itself be read, it
// reports false.
func (c *Client) Locate(ctx context.Context, cache Cache) bool {
	const doing = "look for the contents of"
	places := []string{c.read}
	if u, err := url.Parse(cache.URI); err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https") {
		places = append(places, strings.TrimRight(cache.URI, "/"))
	}
	for i, at := range places {
		look := func() error {
			text, err := c.get(ctx, doing, at+"/nix-cache-info")
			if err == nil && !strings.Contains(text, "StoreDir: "+strings.TrimRight(StoreDir, "/")) {
				err = &Error{Kind: NotCachix, Doing: doing, Cache: c.shown}
			}
			return err
		}
		var err error
		if i == 0 {
			err = c.retry(ctx, look)
		} else { // what a cache says of itself may lead anywhere
			err = look()
		}
		if err == nil {
			c.read = at
			return !cache.Private || c.showsPaths(ctx)
		}
	}
	return false
}

// showsPaths reports whether the cache tells of its paths to who has the API key: of a private one,
// Iglu Cache tells nobody.
func (c *Client) showsPaths(ctx context.Context) bool {
	_, err := c.get(ctx, "look for the contents of", c.read+"/"+unlikely+".narinfo")
	failure, ok := errors.AsType[*Error](err)
	return err == nil || ok && failure.Status == http.StatusNotFound
}

// unlikely is the hash of a path that no cache has.
var unlikely = strings.Repeat("0", 32)

// ReadableByNix returns where Nix can read the cache if it shows the API key as the password of a
// netrc, which is the only way that it knows, or "". It can be asked after Locate.
func (c *Client) ReadableByNix(ctx context.Context) string {
	attempt, cancel := context.WithTimeout(ctx, c.options.CallTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(attempt, http.MethodGet, c.read+"/"+unlikely+".narinfo", nil)
	if err != nil || !c.isOurs(request.URL) || request.URL.RawQuery != "" { // which would be options for Nix
		return ""
	}
	request.SetBasicAuth("", c.token)
	if response, _, err := c.exchange(request); err != nil || response.StatusCode != http.StatusNotFound {
		return ""
	}
	return c.read
}

// isOurs reports whether the API key may go to an address: one on the host that it was
// given for, or below it, as NAME.cachix.org is below cachix.org.
func (c *Client) isOurs(at *url.URL) bool {
	return at.Scheme == c.home.Scheme && (at.Host == c.home.Host || strings.HasSuffix(at.Host, "."+c.home.Host))
}

// get returns what there is to read at an address. It is a GET also where only the
// answer's status is of interest: there are caches that answer 200 to every HEAD.
func (c *Client) get(ctx context.Context, doing, address string) (string, error) {
	attempt, cancel := context.WithTimeout(ctx, c.options.CallTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(attempt, http.MethodGet, address, nil)
	if err != nil {
		return "", c.failed(ctx, doing, nil, err)
	}
	if c.isOurs(request.URL) {
		c.authorize(request)
	}
	response, text, err := c.exchange(request)
	if err != nil {
		return "", c.failed(ctx, doing, request, err)
	}
	switch response.StatusCode {
	case http.StatusOK:
		c.answeredBy(request.URL.Host)
		return string(text), nil
	case http.StatusNotFound:
		return "", c.notThere(doing, request, "it does not have it")
	}
	return "", c.answered(doing, response, text)
}

// notThere makes the error of what a cache does not have. Behind a cache of its own, it may
// have it later.
func (c *Client) notThere(doing string, request *http.Request, detail string) *Error {
	return &Error{Kind: NotAsPushed, Doing: doing, Cache: c.shown, Status: http.StatusNotFound, Detail: detail,
		host: request.URL.Host, again: true}
}

// narInfoFields are the fields of a narinfo, each with its values in order. Fields
// that we do not know are there too: Nix takes no notice of them either.
type narInfoFields map[string][]string

// parseNarInfo reads lines of 'Key: value'.
func parseNarInfo(text string) (narInfoFields, error) {
	fields := narInfoFields{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("a line that is none of a narinfo: %.80q", line)
		}
		fields[name] = append(fields[name], strings.TrimSpace(value))
	}
	return fields, nil
}

// one returns the value of a field that has to stand there once.
func (f narInfoFields) one(name string) (string, error) {
	if values := f[name]; len(values) == 1 {
		return values[0], nil
	}
	return "", fmt.Errorf("%s stands there %d times", name, len(f[name]))
}

// compare returns the first thing in which a narinfo differs from what was pushed.
func (f narInfoFields) compare(p Path, pushed Pushed, keys []ed25519.PublicKey) error {
	if err := f.equal("StorePath", p.StorePath); err != nil {
		return err
	}
	if err := f.equalHash("NarHash", p.NarHash); err != nil {
		return err
	}
	if err := f.equal("NarSize", strconv.FormatInt(p.NarSize, 10)); err != nil {
		return err
	}
	if pushed.FileSize != 0 {
		if err := f.equalHash("FileHash", pushed.FileHash); err != nil {
			return err
		}
		if err := f.equal("FileSize", strconv.FormatInt(pushed.FileSize, 10)); err != nil {
			return err
		}
	}
	if err := f.compareReferences(p); err != nil {
		return err
	}
	if _, err := f.one("URL"); err != nil {
		return err
	}
	return f.checkSignature(p, pushed.signature, keys)
}

func (f narInfoFields) equal(name, want string) error {
	got, err := f.one(name)
	if err == nil && got != want {
		err = fmt.Errorf("%s is %.300q, and %q was pushed", name, got, want)
	}
	return err
}

func (f narInfoFields) equalHash(name string, want Hash) error {
	text, err := f.one(name)
	if err != nil {
		return err
	}
	got, err := ParseHash(text)
	if err != nil || got != want {
		return fmt.Errorf("%s is %.80q, and %q was pushed", name, text, want)
	}
	return nil
}

func (f narInfoFields) compareReferences(p Path) error {
	text, err := f.one("References")
	if err != nil {
		return err
	}
	got := strings.Fields(text)
	slices.Sort(got)
	var want []string
	for _, reference := range p.references() {
		want = append(want, reference[len(StoreDir):])
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("the References are %.300q, and %d were pushed", text, len(want))
	}
	return nil
}

// checkSignature looks for one signature, under whatever name, that is of one of the keys, or
// that is the one that was made with one of them a moment ago: to verify that would take
// longer than all else that is compared.
func (f narInfoFields) checkSignature(p Path, made string, keys []ed25519.PublicKey) error {
	if len(keys) == 0 {
		return nil
	}
	fingerprint := []byte(p.Fingerprint())
	for _, text := range f["Sig"] {
		_, encoded, _ := strings.Cut(text, ":")
		if made != "" && encoded == made {
			return nil
		}
		signature, err := base64.StdEncoding.DecodeString(encoded)
		if err == nil && slices.ContainsFunc(keys, func(key ed25519.PublicKey) bool { return ed25519.Verify(key, fingerprint, signature) }) {
			return nil
		}
	}
	return fmt.Errorf("none of its %d signatures is the one that was pushed", len(f["Sig"]))
}

// publicKey returns the base64 of a public key that is written with or without
// 'NAME:' in front, and whether it is one.
func publicKey(text string) (string, bool) {
	if _, encoded, named := strings.Cut(text, ":"); named {
		text = encoded
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	return text, err == nil && len(raw) == ed25519.PublicKeySize
}
