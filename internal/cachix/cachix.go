// Package cachix is a client for cachix-compatible binary caches: cachix.org, Iglu Cache, and others with the same
// protocol. It finds out what a cache lacks, pushes paths, and checks what was pushed.
//
// New returns a Client for one cache. To push, call its methods in this order:
//
//	Cache    looks the cache up: does it exist, does it accept the API key, what are its public keys?
//	Locate   finds out where the cache can be read
//	Missing  asks which paths it does not have; Has checks a single path
//	Push     sends a path's archive, compressed and in parts, and announces the path
//	Verify   reads back the cache's metadata of the path, and checks that its archive exists
//
// All methods but Close are safe for concurrent use. The number of uploads at the same time is limited, so the
// memory of a client is limited for any number of paths (Options.Memory).
//
// If a cache is down, for example because it restarts, calls are repeated: see Options.RetryFor. An Error has a
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

// Options are the options of a client. A zero value means the default.
type Options struct {
	// Uploads is how many paths are pushed at the same time, 8 by default. A small path needs four
	// calls in sequence, and most of that time is waiting for the cache.
	Uploads int
	// Parts is how many parts are in memory at the same time, being filled or sent, for all uploads
	// together: 12 by default. That is one for each upload, and a few more, so that several parts of
	// a single large path can be sent at the same time.
	Parts int
	// PartSize is the size of all parts of a path but its last, in bytes: 8 MiB by default, and at
	// least 5 MiB, which S3 requires. The official client has 32 MiB, with which memory, and the data
	// lost with a broken connection, would be four times as much. With 8 MiB the compressed archive of a
	// path is at most 80 GB, because S3 accepts 10,000 parts.
	PartSize int
	// CallTimeout is the time limit for one attempt at a call, 30 s by default.
	CallTimeout time.Duration
	// PartTimeout is the time limit for one attempt to send a part, 5 min by default: 28 kB/s.
	PartTimeout time.Duration
	// AbortTimeout is the time limit for the call that aborts an upload, 5 s by default. Other calls do
	// not wait for it.
	AbortTimeout time.Duration
	// Attempts is how often a call is tried if another attempt may succeed and the server answers other
	// calls, 5 by default. With the default Backoff, all attempts take at most 7 s, if the server answers
	// immediately and does not ask for a longer pause. After 429, a call is tried until RetryFor has passed.
	Attempts int
	// Backoff is the pause before the second attempt, 500 ms by default. It doubles with each attempt,
	// up to 5 s.
	Backoff time.Duration
	// RetryFor is how long calls to a server that is down are repeated, 90 s by default. A server is down
	// if it accepts no connections or closes them, or a proxy answers for it (502, 503, 504, and those of
	// Cloudflare), or it answers 404 to a call that succeeded before. The time begins with the outage, or with Renew.
	RetryFor time.Duration
	// Notice, unless nil, is called with a line when calls begin to fail and are repeated, and when a
	// server is up again. It must not call the client.
	Notice func(line string)
	// Dial, unless nil, makes the connections.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// minPartSize is the smallest size that S3 accepts for a part that is not the last.
const minPartSize = 5 << 20

// withDefaults returns the options with defaults for the zero values.
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

// A Client is a client of one cache.
type Client struct {
	transport *transport // makes single attempts at calls
	retrier   *retrier   // repeats calls
	reader    *reader    // reads from the cache
	uploader  *uploader  // pushes paths
	pin       *pin
}

// New returns a client of the cache at target, http(s)://HOST/NAME, with token as the API key. Its errors
// contain neither.
func New(target, token string, options Options) (*Client, error) {
	at, err := parseTarget(target)
	if err != nil {
		return nil, err
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsGraphic(r) }) {
		return nil, errors.New("the API key holds a character that no API key has, such as a line end")
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

// parseTarget parses http(s)://HOST/NAME. Its errors do not contain the target, which may include a
// password.
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

// Uploads returns how many paths are pushed at the same time.
func (c *Client) Uploads() int { return c.transport.options.Uploads }

// Close closes the connections, after the requests to abort uploads have been sent. It does not wait for
// their answers, because some caches never answer them. No other method may be called after Close or at the
// same time.
func (c *Client) Close() {
	c.uploader.aborter.close()
	c.transport.http.CloseIdleConnections()
}

// Renew starts the time of Options.RetryFor again, for a cache that is down.
func (c *Client) Renew() { c.transport.hosts.renew() }

// Cache has the properties of a cache, as the cache reports them. Caches differ in which properties they
// report and in the types. A property of an unexpected type counts as missing.
type Cache struct {
	Name       string
	URI        string
	PublicKeys []string
	// Private is true if reading the cache needs an API key.
	Private bool
	// Permission is what the API key may do: Read, Write or Admin. Iglu Cache reports Read, or nothing,
	// for every key: only a call that writes shows whether the key may write.
	Permission string
}

// UnmarshalJSON parses a cache's description of itself.
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
	isPublic := strings.Trim(string(properties["isPublic"]), `"`) // some caches send a string
	*cache = Cache{Private: isPublic == "false", Name: str(properties["name"]), URI: str(properties["uri"]), Permission: str(properties["permission"])}
	var keys []json.RawMessage
	if json.Unmarshal(properties["publicSigningKeys"], &keys) == nil && keys != nil {
		cache.PublicKeys = []string{} // the cache reports that it has none
	}
	for _, key := range keys {
		cache.PublicKeys = append(cache.PublicKeys, str(key))
	}
	return nil
}

// maxKeys is how many public keys a cache may have. Most have one. Iglu Cache has one for each API key with which one was
// registered.
const maxKeys = 1000

// described reports whether the JSON described a cache.
func (cache Cache) described() bool { return cache.Name != "" || cache.PublicKeys != nil }

// Keys returns the cache's public signing keys in base64. It omits invalid ones: some caches publish other
// text instead of a key.
func (cache Cache) Keys() []string {
	var keys []string
	for _, text := range cache.PublicKeys {
		if key, ok := publicKey(text); ok {
			keys = append(keys, key)
		}
	}
	return keys
}

// NamedKeys returns the same keys in the format NAME:BASE64, which Nix needs. A key without a name gets the
// cache's name.
func (cache Cache) NamedKeys() []string {
	var keys []string
	for _, text := range cache.PublicKeys {
		if key, ok := publicKey(text); ok {
			name, _, named := strings.Cut(strings.TrimSpace(text), ":")
			if !named {
				name = cache.Name
			}
			keys = append(keys, name+":"+key)
		}
	}
	return keys
}

// Cache returns the properties of the cache, after checking that it exists and accepts the API key. Its
// errors are of the kinds KeyRefused, NoCache, NoSigningKey, TooManyKeys, Unreachable, TimedOut, Busy, Failing, Refused
// and NotCachix.
func (c *Client) Cache(ctx context.Context) (Cache, error) {
	var cache Cache
	call := c.transport.lookUp(&cache)
	err := c.retrier.do(ctx, call)
	if failure, ok := errors.AsType[*Error](err); ok && !failure.away {
		switch failure.Status {
		case http.StatusNotFound:
			failure.Kind = NoCache
		case http.StatusBadRequest:
			failure.Kind = NoSigningKey
		}
	}
	switch n := len(cache.PublicKeys); {
	case err != nil:
	case !cache.described(): // other JSON
		err = &Error{Kind: NotCachix, Doing: call.doing, Cache: c.transport.shown, Status: http.StatusOK}
	case n > maxKeys:
		err = &Error{Kind: TooManyKeys, Doing: call.doing, Cache: c.transport.shown, Detail: fmt.Sprintf("it has %d, and may have %d", n, maxKeys)}
	}
	return cache, err
}

// maxHashes is how many hashes are sent in one call. The protocol allows 32,768, but Iglu Cache reads only 100 KiB of
// JSON, which is 2,925 of them, and answers 413 to more. A proxy may have a limit, too.
const maxHashes = 2048

// Missing returns those of the hashes (Path.Hash) that the cache says it lacks. Some caches say so for all
// hashes; Has checks a single path reliably.
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
	if answer == nil { // JSON's null does not mean that nothing is missing
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
