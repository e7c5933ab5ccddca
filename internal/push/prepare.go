package push

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"iglu.sh/builder/internal/cachix"
	"iglu.sh/builder/internal/nar"
)

// A Refusal is the error of Prepare: it says why nothing can be pushed.
type Refusal struct {
	What      string // what is wrong
	Advice    string // what to do about it; may be empty
	Reason    string // What as a headline, with the main point first; empty: the same as What
	Temporary bool   // a later attempt may succeed
}

func (r *Refusal) Error() string {
	if r.Advice == "" {
		return r.What
	}
	return r.What + "; " + r.Advice
}

// prepareTimeout is the time limit for all requests to the cache before the build. It allows for retries
// (cachix.Options.RetryFor) and a last attempt (CallTimeout).
const prepareTimeout = 2 * time.Minute

// Prepare checks that the cache can be reached, exists, accepts the API key, and has the public half of the
// signing key. If a check fails, it returns a *Refusal. It and the Pusher call say for each line of the log.
func Prepare(ctx context.Context, o Options, say func(format string, args ...any)) (*Pusher, error) {
	key, err := parseKey(o.SigningKey)
	if err != nil {
		return nil, &Refusal{What: err.Error(), Advice: "check buildOptions.cachix.signingKey"}
	}
	options := o.client()
	options.Notice = func(line string) { say("%s", line) }
	client, err := cachix.New(o.Target, o.Token, options)
	if err != nil {
		return nil, &Refusal{What: err.Error()}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, prepareTimeout, errors.New("the cache has not answered within "+prepareTimeout.String()))
	defer cancel()
	_ = client.Pin(ctx) // if it fails, the next call fails with the same error
	cache, err := client.Cache(ctx)
	if err == nil {
		err = check(cache, key, say)
	}
	if err != nil {
		client.Close()
		return nil, refusal(err)
	}
	say("the results are pushed to %s", o.Target)
	if client.InTheOpen() {
		say("warning: the connection to the cache is not encrypted: others in the network can read the API key and change what is pushed; use https://")
	}
	tally := &tally{say: say, progress: o.Progress}
	s := &sender{client: client, key: key, say: say, dump: nar.Dump, tally: tally}
	if key != nil {
		s.keys = append(cache.Keys(), key.Public())
	}
	if s.readable = client.Locate(ctx, cache); !s.readable {
		say("warning: the cache cannot be read from here: what is pushed will not be checked")
	}
	p := &Pusher{client: client, upstream: newTrust(o.Upstream, cache.Keys(), key), say: say, sender: s, tally: tally}
	p.source = Substituter{URL: client.Address(), Keys: keysOfPaths(o, cache, key)}
	if cache.Private {
		p.findSubstituter(ctx, cache)
	}
	return p, nil
}

// keysOfPaths returns the public keys with which Nix trusts what is pushed, in the format NAME:BASE64. A cache shows
// a signature with the name that it publishes for its key, or with its own name. Only the first path that is read
// would tell which, so both are returned. key is nil if the cache signs.
func keysOfPaths(o Options, cache cachix.Cache, key *cachix.SigningKey) []string {
	if key == nil {
		return cache.NamedKeys()
	}
	keys := []string{cachix.TrustedKey(o.Target, o.SigningKey)}
	for _, named := range cache.NamedKeys() {
		if strings.HasSuffix(named, ":"+key.Public()) && !slices.Contains(keys, named) {
			keys = append(keys, named)
		}
	}
	return keys
}

// A Substituter is a cache from which Nix can download.
type Substituter struct {
	URL  string
	Keys []string // its public keys, in the format NAME:BASE64
}

// Substituter returns the cache if it is private and Nix can read it with the API key as a password in a
// netrc file.
func (p *Pusher) Substituter() (Substituter, bool) { return p.substituter, p.substituter.URL != "" }

// Source returns where users get what was pushed: the address at which the cache can be read, and the keys with
// which Nix trusts the paths.
func (p *Pusher) Source() Substituter { return p.source }

func (p *Pusher) findSubstituter(ctx context.Context, cache cachix.Cache) {
	p.substituter = Substituter{URL: p.client.ReadableByNix(ctx), Keys: cache.NamedKeys()}
	if p.substituter.URL == "" {
		p.say("the cache is private, and Nix cannot read it: nothing is downloaded from it")
	}
}

// Close ends the connections to the cache.
func (p *Pusher) Close() { p.client.Close() }

func parseKey(text string) (*cachix.SigningKey, error) {
	if text == "" {
		return nil, nil
	}
	return cachix.ParseSigningKey(text)
}

// refusal converts an error of the cache's client to a *Refusal.
func refusal(err error) error {
	if _, ok := errors.AsType[*Refusal](err); ok {
		return err
	}
	advice := map[error]string{
		cachix.KeyRefused:   "check buildOptions.cachix.apiKey",
		cachix.NoCache:      "check the name at the end of buildOptions.cachix.target",
		cachix.NotCachix:    "",
		cachix.NoSigningKey: "",
		cachix.TooManyKeys:  "delete the keys with which no path is signed any more",
		cachix.Refused:      "check buildOptions.cachix.target",
	}
	for kind, text := range advice {
		if errors.Is(err, kind) {
			return &Refusal{What: err.Error(), Advice: text, Reason: headline(err)}
		}
	}
	return &Refusal{What: err.Error(), Reason: headline(err), Temporary: true,
		Advice: "check buildOptions.cachix.target, and that the cache is up and can be reached from the job's container"}
}

// headline returns an error of the cache's client with its kind first.
func headline(err error) string {
	e, ok := errors.AsType[*cachix.Error](err)
	if !ok {
		return err.Error()
	}
	about := e.Cache
	if e.Status != 0 {
		about += fmt.Sprintf(": HTTP %d", e.Status)
	}
	if more := cmp.Or(e.Detail, causeOf(e)); more != "" {
		about += ": " + more
	}
	kind, _, _ := strings.Cut(string(e.Kind), "; ") // what follows is advice
	return fmt.Sprintf("%s (%s)", kind, about)
}

func causeOf(e *cachix.Error) string {
	if e.Cause == nil {
		return ""
	}
	return e.Cause.Error()
}

// check checks the properties of the cache, and warns about what it cannot check.
func check(cache cachix.Cache, key *cachix.SigningKey, say func(format string, args ...any)) error {
	if strings.EqualFold(cache.Permission, "read") {
		say("the cache says that the API key may only read; Iglu Cache says so of every key, so only the first upload shows whether that is true")
	}
	keys := cache.Keys()
	switch {
	case key == nil:
		say("warning: no signing key is given: unless the cache signs by itself, Nix will not accept what is pushed")
	case len(keys) == 0:
		say("warning: the cache does not publish its public keys: if %s is not trusted by its users, Nix will not accept what is pushed", key.Public())
	case !slices.Contains(keys, key.Public()):
		return &Refusal{What: "the signing key belongs to none of the cache's public keys, so Nix would not accept what it signs", Advice: fmt.Sprintf(
			"give the private half of %s as buildOptions.cachix.signingKey, or register the key's public half, %s, with the cache",
			strings.Join(keys, " or "), key.Public())}
	}
	return nil
}

// A trust has the public keys of upstream caches, by their names.
type trust map[string]ed25519.PublicKey

// newTrust parses keys in the format NAME:BASE64. It omits the keys of the cache itself: a path that the
// cache has signed, but has no longer, must be pushed again. It omits invalid keys, which Nix does not
// trust either.
func newTrust(keys, ofCache []string, signing *cachix.SigningKey) trust {
	if signing != nil {
		ofCache = append(slices.Clone(ofCache), signing.Public())
	}
	t := make(trust)
	for _, text := range keys {
		name, encoded, _ := strings.Cut(text, ":")
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if err == nil && len(raw) == ed25519.PublicKeySize && !slices.Contains(ofCache, encoded) {
			t[name] = raw
		}
	}
	return t
}

// signed reports whether one of the signatures, in the format NAME:BASE64, is by a trusted key.
func (t trust) signed(path cachix.Path, signatures []string) bool {
	fingerprint := []byte(path.Fingerprint()) // once: there may be many signatures
	for _, text := range signatures {
		name, encoded, _ := strings.Cut(text, ":")
		signature, err := base64.StdEncoding.DecodeString(encoded)
		if key, ok := t[name]; ok && err == nil && ed25519.Verify(key, fingerprint, signature) {
			return true
		}
	}
	return false
}
