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

// A Refusal is why nothing can be pushed, found out before the build.
type Refusal struct {
	What      string // is wrong
	Advice    string // what to do about it; empty: What says all
	Reason    string // What as a headline, which begins with what matters; empty: it is What
	Temporary bool   // it may go away by itself
}

func (r *Refusal) Error() string {
	if r.Advice == "" {
		return r.What
	}
	return r.What + "; " + r.Advice
}

// prepareTimeout bounds the questions that the cache is asked before the build: they are
// asked again for as long as cachix.Options.RetryFor, and one can take its CallTimeout.
const prepareTimeout = 2 * time.Minute

// Prepare checks that the cache can be reached, is there, takes the API key, and will
// announce what the signing key signs. It returns a *Refusal if that is not so. What it
// and the Pusher have to say goes to say, one line at a time.
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
	_ = client.Pin(ctx) // if it cannot, the next call says why
	cache, err := client.Cache(ctx)
	if err == nil {
		err = check(cache, key, say)
	}
	if err != nil {
		client.Close()
		return nil, refusal(err)
	}
	say("what this job yields goes to %s", o.Target)
	if client.InTheOpen() {
		say("warning: the cache is called without encryption: who is on the way can read the API key and change what is pushed; use https://")
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
	if cache.Private {
		p.findSubstituter(ctx, cache)
	}
	return p, nil
}

// A Substituter is a cache as Nix reads it.
type Substituter struct {
	URL  string
	Keys []string // by which Nix trusts it: NAME:BASE64
}

// Substituter returns the cache, if it is a private one that Nix can read with the API key as the
// password of a netrc.
func (p *Pusher) Substituter() (Substituter, bool) { return p.substituter, p.substituter.URL != "" }

func (p *Pusher) findSubstituter(ctx context.Context, cache cachix.Cache) {
	p.substituter = Substituter{URL: p.client.ReadableByNix(ctx), Keys: cache.NamedKeys()}
	if p.substituter.URL == "" {
		p.say("the cache is private, and Nix cannot read it: nothing is taken from it")
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

// refusal makes one of an error of the cache's client.
func refusal(err error) error {
	if _, ok := errors.AsType[*Refusal](err); ok {
		return err
	}
	advice := map[error]string{
		cachix.KeyRefused:   "check buildOptions.cachix.apiKey",
		cachix.NoCache:      "check the name at the end of buildOptions.cachix.target",
		cachix.NotCachix:    "",
		cachix.NoSigningKey: "",
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
	return fmt.Sprintf("%s (%s)", e.Kind, about)
}

func causeOf(e *cachix.Error) string {
	if e.Cause == nil {
		return ""
	}
	return e.Cause.Error()
}

// check holds what the cache says of itself against what is to be done, and says what
// cannot be known.
func check(cache cachix.Cache, key *cachix.SigningKey, say func(format string, args ...any)) error {
	if strings.EqualFold(cache.Permission, "read") {
		say("the cache says that the API key may only read; Iglu Cache says so of every key, and the first upload tells")
	}
	keys := cache.Keys()
	switch {
	case key == nil:
		say("warning: no signing key is given: unless the cache signs by itself, Nix will not accept what is pushed")
	case len(keys) == 0:
		say("warning: the cache does not publish its public keys: if %s is not trusted by its users, Nix will not accept what is pushed", key.Public())
	case !slices.Contains(keys, key.Public()):
		return &Refusal{What: "the signing key is none of the cache's, so Nix would not accept what it signs", Advice: fmt.Sprintf(
			"give the private half of %s as buildOptions.cachix.signingKey, or register the key's public half, %s, with the cache",
			strings.Join(keys, " or "), key.Public())}
	}
	return nil
}

// A trust holds the public keys of upstream caches by their names.
type trust map[string]ed25519.PublicKey

// newTrust reads NAME:BASE64 keys, less those of the cache itself: what it has signed
// and has no more is to be pushed again. What is no key is left out, as Nix does not
// trust it either.
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

// signed reports whether one of some signatures, NAME:BASE64 each, is a trusted key's.
func (t trust) signed(path cachix.Path, signatures []string) bool {
	for _, text := range signatures {
		name, encoded, _ := strings.Cut(text, ":")
		signature, err := base64.StdEncoding.DecodeString(encoded)
		if key, ok := t[name]; ok && err == nil && ed25519.Verify(key, []byte(path.Fingerprint()), signature) {
			return true
		}
	}
	return false
}
