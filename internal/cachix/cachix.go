// Package cachix is a client for cachix-compatible binary caches: cachix.org, Iglu Cache, and others with the same
// protocol. It finds out what a cache lacks, pushes paths, and checks what was pushed.
//
// New returns a Client for one cache. To push, call its methods in this order:
//
//	Cache    looks the cache up: does it exist, does it accept the API key, what are its public keys?
//	Locate   finds out where the cache can be read
//	Missing  asks which paths it does not have; Has checks a single path
//	Push     sends a path's archive, compressed and in parts, and announces the path
//	Verify   reads back what the cache says of the path, and whether its archive is there
//
// All methods but Close are safe for concurrent use. Push waits for its turn, so the
// memory of a client is limited for any number of paths (Options.Memory).
//
// If a cache is away, for example because it restarts, calls are repeated: see Options.RetryFor. An Error has a
// Kind, for errors.Is. No error has the API key, a signing key or the address of an upload in it.
package cachix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
)

// Options are what can be set of a client. Zero means the default.
type Options struct {
	// Uploads is how many paths are pushed at once, 8 by default: a small path is four
	// calls one after the other, so that time goes by in waiting for the cache.
	Uploads int
	// Parts is how many parts of paths are in memory at once, being filled or sent, in
	// all uploads together: 12 by default. One for each upload, and a few more that let
	// a single large path go out in parts side by side.
	Parts int
	// PartSize is the size of all parts of a path but its last, in bytes: 8 MiB by
	// default and never less than 5 MiB, the least that S3 takes. The official client's
	// 32 MiB would quadruple the memory and what a broken connection costs; with 8 MiB
	// a path is at most 80 GB compressed, since S3 takes 10,000 parts.
	PartSize int
	// CallTimeout bounds one attempt at a call, 30 s by default.
	CallTimeout time.Duration
	// PartTimeout bounds one attempt at sending a part, 5 min by default: 28 kB/s.
	PartTimeout time.Duration
	// AbortTimeout bounds the one call that takes an upload back, 5 s by default. Nothing
	// waits for its answer.
	AbortTimeout time.Duration
	// Attempts is how often each call is tried where trying again may help and the server
	// answers other calls, 5 by default: for 7 s at the longest with the default Backoff,
	// where the server answers at once and does not ask for more.
	Attempts int
	// Backoff is the wait before the second attempt, 500 ms by default. It doubles
	// with each, up to 5 s.
	Backoff time.Duration
	// RetryFor is how long calls are tried again to a server that is away, 90 s by default:
	// one that takes no connections or breaks them off, answers 502, 503 or 504, or 404 to
	// what it has answered before. That is counted from when it went away, or from Renew.
	RetryFor time.Duration
	// Notice, unless nil, is told in a line when calls begin to fail and are tried again,
	// and when a server that was away is back. It must not call the client.
	Notice func(line string)
	// Dial, unless nil, connects in place of the network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// minPartSize is the least that S3 takes for a part that is not the last.
const minPartSize = 5 << 20

// withDefaults returns the options with a value for each.
func (o Options) withDefaults() Options {
	return Options{
		Uploads:      positive(o.Uploads, 8),
		Parts:        positive(o.Parts, 12),
		PartSize:     max(minPartSize, positive(o.PartSize, 8<<20)),
		CallTimeout:  positive(o.CallTimeout, 30*time.Second),
		PartTimeout:  positive(o.PartTimeout, 5*time.Minute),
		AbortTimeout: positive(o.AbortTimeout, 5*time.Second),
		Attempts:     positive(o.Attempts, 5),
		Backoff:      positive(o.Backoff, 500*time.Millisecond),
		RetryFor:     positive(o.RetryFor, 90*time.Second),
		Notice:       o.Notice,
		Dial:         o.Dial,
	}
}

func positive[T int | time.Duration](value, initial T) T {
	if value > 0 {
		return value
	}
	return initial
}

// A Client is a client of one cache. It asks about the cache itself, and has its parts do the rest.
type Client struct {
	transport *transport // makes one attempt at a call
	retrier   *retrier   // makes it again
	reader    *reader    // reads what the cache has
	uploader  *uploader  // pushes paths
	pin       *pin
}

// New returns a client of the cache at target, http(s)://HOST/NAME, that shows token
// as its API key. Its errors hold neither.
func New(target, token string, options Options) (*Client, error) {
	at, err := parseTarget(target)
	if err != nil {
		return nil, err
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsGraphic(r) }) {
		return nil, errors.New("the API key holds a character that cannot stand in one, such as a line end")
	}
	pin := &pin{host: at.Hostname(), moves: at.Scheme == "https"}
	transport := newTransport(at, token, options.withDefaults(), pin)
	retrier := &retrier{transport}
	reader := &reader{transport: transport, retrier: retrier, at: at.String()}
	return &Client{
		transport: transport,
		retrier:   retrier,
		reader:    reader,
		uploader:  newUploader(transport, retrier, reader),
		pin:       pin,
	}, nil
}

// parseTarget reads http(s)://HOST/NAME. Its errors do not repeat the target, since
// somebody may have written a password into it.
func parseTarget(target string) (*url.URL, error) {
	at, err := url.Parse(strings.TrimRight(target, "/"))
	switch {
	case err != nil || at.Host == "" || at.Scheme != "http" && at.Scheme != "https":
		return nil, errors.New("the cache's address is not one such as https://cache.example.com/default")
	case at.User != nil || at.RawQuery != "" || at.Fragment != "":
		return nil, errors.New("the cache's address holds more than a host and a name; the key has a field of its own")
	case len(at.Path) < 2:
		return nil, fmt.Errorf("the cache's address lacks the cache's name: https://%s/NAME", at.Host)
	}
	return at, nil
}

// Uploads returns how many paths are pushed at once.
func (c *Client) Uploads() int { return c.transport.options.Uploads }

// Close closes the connections, as soon as what takes uploads back has been sent: there are
// caches that never answer that. No other method may be called after it, or at the same time.
func (c *Client) Close() {
	c.uploader.aborter.close()
	c.transport.http.CloseIdleConnections()
}

// Renew gives a cache that is away the whole of Options.RetryFor again, from now on.
func (c *Client) Renew() { c.transport.hosts.renew() }

// Cache is what a cache says of itself. Caches differ in the types and in which properties
// there are: what is of another type counts as not there.
type Cache struct {
	Name       string
	URI        string
	PublicKeys []string
	// Private is true of a cache that says that not everybody may read it.
	Private bool
	// Permission is said to be what the API key may do: Read, Write or Admin. Iglu Cache
	// says Read, or nothing, of every key: only a call that writes tells.
	Permission string
}

// UnmarshalJSON reads what a cache says of itself.
func (cache *Cache) UnmarshalJSON(text []byte) error {
	var properties map[string]json.RawMessage
	if err := json.Unmarshal(text, &properties); err != nil {
		return err
	}
	str := func(raw json.RawMessage) (text string) {
		if json.Unmarshal(raw, &text) != nil {
			return ""
		}
		return text
	}
	isPublic := strings.Trim(string(properties["isPublic"]), `"`) // a string in some
	*cache = Cache{Private: isPublic == "false", Name: str(properties["name"]), URI: str(properties["uri"]), Permission: str(properties["permission"])}
	var keys []json.RawMessage
	if json.Unmarshal(properties["publicSigningKeys"], &keys) == nil && keys != nil {
		cache.PublicKeys = []string{} // said to be none
	}
	for _, key := range keys {
		cache.PublicKeys = append(cache.PublicKeys, str(key))
	}
	return nil
}

// described reports whether the JSON was that of a cache.
func (cache Cache) described() bool { return cache.Name != "" || cache.PublicKeys != nil }

// Keys returns the base64 of the cache's public signing keys that are such keys:
// some caches publish other text in their place.
func (cache Cache) Keys() []string {
	var keys []string
	for _, text := range cache.PublicKeys {
		if key, ok := publicKey(text); ok {
			keys = append(keys, key)
		}
	}
	return keys
}

// NamedKeys returns the cache's public signing keys that are such keys as NAME:BASE64, which is how
// Nix trusts them: by the cache's name where they have none.
func (cache Cache) NamedKeys() []string {
	var keys []string
	for _, text := range cache.PublicKeys {
		if key, ok := publicKey(text); ok {
			name, _, named := strings.Cut(text, ":")
			if !named {
				name = cache.Name
			}
			keys = append(keys, name+":"+key)
		}
	}
	return keys
}

// Cache looks the cache up: whether it is there and takes the API key. Its errors are of the
// kinds KeyRefused, NoCache, NoSigningKey, Unreachable, TimedOut, Busy, Failing, Refused and
// NotCachix.
func (c *Client) Cache(ctx context.Context) (Cache, error) {
	var cache Cache
	err := c.retrier.do(ctx, c.transport.lookUp(&cache))
	if failure, ok := errors.AsType[*Error](err); ok && !failure.away {
		switch failure.Status {
		case http.StatusNotFound:
			failure.Kind = NoCache
		case http.StatusBadRequest:
			failure.Kind = NoSigningKey
		}
	}
	if err == nil && !cache.described() { // JSON, but of something else
		err = &Error{Kind: NotCachix, Doing: "look up the cache", Cache: c.transport.shown, Status: http.StatusOK}
	}
	return cache, err
}

// Register adds a public signing key to the cache's.
func (c *Client) Register(ctx context.Context, key *SigningKey) error {
	return c.retrier.do(ctx, call{doing: "register a signing key with", method: http.MethodPost, url: c.transport.api + "/key",
		body: map[string]string{"publicKey": key.Public()}})
}

// maxHashes is how many hashes the protocol takes in one call.
const maxHashes = 32768

// Missing returns those of the hashes (Path.Hash) that the cache says it lacks. There are
// caches that say so of all hashes: Has finds out about one path.
func (c *Client) Missing(ctx context.Context, hashes []string) ([]string, error) {
	var missing []string
	for len(hashes) > 0 {
		some := hashes[:min(len(hashes), maxHashes)]
		hashes = hashes[len(some):]
		answer, err := c.missing(ctx, some)
		if err != nil {
			return nil, err
		}
		missing = append(missing, answer...)
	}
	return missing, nil
}

func (c *Client) missing(ctx context.Context, hashes []string) ([]string, error) {
	const doing = "ask what is missing in"
	var answer []string
	err := c.retrier.do(ctx, call{doing: doing, method: http.MethodPost, url: c.transport.api + "/narinfo", body: hashes, answer: &answer})
	if err != nil {
		return nil, err
	}
	if answer == nil { // JSON's null, which must not count as "nothing"
		return nil, &Error{Kind: NotCachix, Doing: doing, Cache: c.transport.shown, Detail: "it answers null"}
	}
	asked := make(map[string]bool, len(hashes))
	for _, hash := range hashes {
		asked[hash] = true
	}
	for _, hash := range answer {
		if !asked[hash] {
			return nil, &Error{Kind: NotCachix, Doing: doing, Cache: c.transport.shown, Detail: "it names a hash that was not asked for"}
		}
	}
	return answer, nil
}
