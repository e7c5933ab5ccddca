package cachix

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/test/kit/devcache"
)

func TestCache(t *testing.T) {
	w := emptyFixture(t, quick())
	if _, err := w.Cache(t.Context()); !errors.Is(recorder.keep(err), NoSigningKey) {
		t.Errorf("without a key: error %v, want %v", err, NoSigningKey)
	}
	w.register()
	cache, err := w.Cache(t.Context())
	if err != nil {
		t.Fatal(recorder.keep(err))
	}
	if cache.Name != "default" || cache.Permission != "Write" || !slices.Equal(cache.Keys(), []string{w.key.Public()}) {
		t.Errorf("got %+v", cache)
	}
}

func TestCacheKeysThatAreNone(t *testing.T) {
	real := newKey(t).Public()
	cache := Cache{PublicKeys: []string{"default", "", "name:null", "name:AAAA", "name:" + real, real, real[1:]}}
	if got := cache.Keys(); !slices.Equal(got, []string{real, real}) {
		t.Errorf("got %q", got)
	}
}

func TestCacheFaults(t *testing.T) {
	for _, f := range []failure{
		{"400", devcache.Answer(400, "no key"), NoSigningKey},
		{"401", devcache.Answer(401, "your key "+token+" is\n\twrong"), KeyRefused},
		{"403", devcache.Answer(403, strings.Repeat("long ", 100)), KeyRefused},
		{"404", devcache.Answer(404, "see http://user:secret@host/path?key="+token), NoCache},
		{"418", devcache.Answer(418, "\x00\x1b[31m"), Refused},
		{"429 always", devcache.Answer(429, ""), Busy},
		{"500 once", once(devcache.Answer(500, "")), nil},
		{"500 always", devcache.Answer(500, ""), Failing},
		{"unknown route is 200", devcache.Answer(200, "OK"), NotCachix},
		{"other JSON", devcache.Answer(200, `{"status":"fine"}`), NotCachix},
		{"other JSON still", devcache.Answer(200, `[]`), NotCachix},
		{"too many keys", devcache.Answer(200, `{"name":"default","publicSigningKeys":["a"`+strings.Repeat(`,"a"`, maxKeys)+`]}`), TooManyKeys},
		{"redirection", devcache.Answer(301, "", "Location", "https://elsewhere.example.com/secret"), NotCachix},
		{"broken off", devcache.BreakOff(0), Unreachable},
		{"hangs", devcache.Hang(), TimedOut},
	} {
		t.Run(f.name, func(t *testing.T) {
			options := quick()
			options.CallTimeout = 100 * time.Millisecond
			w := newFixture(t, options)
			w.cache.Misbehave(devcache.On("GET", aboutCache, f.fault))
			w.Client = newClient(t, w.url+"/default", options) // which the cache has not answered before
			start := time.Now()
			_, err := w.Cache(t.Context())
			if !errors.Is(recorder.keep(err), f.want) {
				t.Errorf("error %v, want %v", err, f.want)
			}
			if err != nil && !strings.Contains(err.Error(), w.url+"/default") {
				t.Errorf("%q does not name the cache", err)
			}
			if err != nil && (strings.ContainsAny(err.Error(), "\n\t\x00\x1b") || strings.Contains(err.Error(), "secret") || len(err.Error()) > 500) {
				t.Errorf("%q is not fit for a line of a log", err)
			}
			endedSoon(t, start)
		})
	}
}

func TestWrongKeyAndName(t *testing.T) {
	w := newFixture(t, quick())
	if _, err := newClient(t, w.url+"/other", quick()).Cache(t.Context()); !errors.Is(recorder.keep(err), NoCache) {
		t.Errorf("error %v, want %v", err, NoCache)
	}
	for _, token := range []string{"", "wrong-token"} {
		client, err := New(w.url+"/default/", token, quick())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if _, err := client.Cache(t.Context()); !errors.Is(recorder.keep(err), KeyRefused) {
			t.Errorf("error %v, want %v", err, KeyRefused)
		}
		if _, err := client.Missing(t.Context(), []string{small(t).Hash()}); !errors.Is(recorder.keep(err), KeyRefused) {
			t.Errorf("error %v, want %v", err, KeyRefused)
		}
	}
}

func TestUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close() // now nothing listens there
	for _, host := range []string{listener.Addr().String(), "no-such-host.invalid"} {
		client := newClient(t, "http://"+host+"/default", quick())
		_, err := client.Cache(t.Context())
		if !errors.Is(recorder.keep(err), Unreachable) {
			t.Errorf("%s: error %v, want %v", host, err, Unreachable)
		}
		t.Log(err)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, target := range []string{"", "cache", "cache.example.com/default", "ftp://host/default", "http:///default", "http://host",
		"http://host/", "http://user:" + token + "@host/default", "http://host/default?" + token, "http://host/default#x",
		"http://ho st/default", "http://[::1/" + token} {
		if _, err := New(target, token, Options{}); recorder.keep(err) == nil {
			t.Errorf("%q: no error", target)
		}
	}
	for _, bad := range []string{token + "\n", token + "\r\nX: y", "a\x00", "ä"} {
		if _, err := New("http://host/default", bad, Options{}); recorder.keep(err) == nil {
			t.Errorf("token %q: no error", bad)
		}
	}
}

// The API key is sent to the host of the cache only, not to other hosts from which the client reads.
func TestKeyStaysWithItsHost(t *testing.T) {
	w := newFixture(t, quick())
	s := small(t)
	pushed, err := w.push(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	var authorization string
	reader := httptest.NewServer(http.StripPrefix("/sub", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		authorization = r.Header.Get("Authorization")
		r.URL.Path = "/default" + r.URL.Path
		w.cache.ServeHTTP(rw, r)
	})))
	t.Cleanup(reader.Close)
	w.cache.Misbehave(devcache.On("GET", "/default/*", devcache.Answer(200, "a page for people")))
	client := newClient(t, w.url+"/default", quick())
	if client.Locate(t.Context(), Cache{URI: w.url + "/other"}) {
		t.Error("a cache was found where there is none")
	}
	w.cache.Misbehave()
	client = newClient(t, "http://localhost:1/default", quick())
	if !client.Locate(t.Context(), Cache{URI: reader.URL + "/sub/"}) {
		t.Fatal("the cache was not found")
	}
	if err := recorder.keep(client.Verify(t.Context(), s.Path, pushed, w.key)); err != nil {
		t.Error(err)
	}
	if authorization != "" {
		t.Error("the API key went to another host")
	}
}

// An address is written in several ways: the case of a host does not count, nor does the port of its scheme.
func TestIsOurs(t *testing.T) {
	for _, test := range []struct {
		target, at string
		want       bool
	}{
		{"https://Cache.example.com/c", "https://cache.example.com/c/nar/x", true},
		{"https://cache.example.com/c", "https://CACHE.example.com/c", true},
		{"https://Cachix.org/c", "https://c.cachix.org/", true},
		{"https://cache.example.com:443/c", "https://cache.example.com/c", true},
		{"http://cache.example.com/c", "http://cache.example.com:80/c", true},
		{"https://cache.example.com/c", "https://cache.example.com:80/c", false},
		{"https://cache.example.com/c", "https://cache.example.com:8443/c", false},
		{"https://cache.example.com/c", "http://cache.example.com/c", false},
		{"https://cache.example.com/c", "https://evilcache.example.com/c", false},
		{"https://cache.example.com/c", "https://example.com/c", false},
	} {
		c, err := New(test.target, "", Options{})
		if err != nil {
			t.Fatal(err)
		}
		at, err := url.Parse(test.at)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.transport.isOurs(at); got != test.want {
			t.Errorf("%s is of %s: %v, want %v", test.at, test.target, got, test.want)
		}
		c.Close()
	}
}

// A private cache is read with the API key.
func TestPrivate(t *testing.T) {
	cache, err := devcache.New(devcache.Options{Folder: t.TempDir(), Token: token, Names: []string{"default"}, Private: true})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(secretsOf(cache))
	t.Cleanup(server.Close)
	w := &fixture{t: t, key: newKey(t), Client: newClient(t, server.URL+"/default", quick())}
	w.register()
	s := small(t)
	pushed, err := w.push(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := recorder.keep(w.Verify(t.Context(), s.Path, pushed, w.key)); err != nil {
		t.Error(err)
	}
	described, err := w.Cache(t.Context())
	if err != nil || !described.Private || !w.Locate(t.Context(), described) {
		t.Errorf("it cannot be read: %+v, error %v", described, err)
	}
	if at := w.ReadableByNix(t.Context()); at != server.URL+"/default" {
		t.Errorf("Nix can read it at %q", at)
	}
	stranger, err := New(server.URL+"/default", "", quick())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if err := recorder.keep(stranger.Verify(t.Context(), s.Path, pushed, w.key)); !errors.Is(err, KeyRefused) {
		t.Errorf("error %v, want %v", err, KeyRefused)
	}
}

// A private cache of Iglu Cache cannot be read.
func TestPrivateOfIglu(t *testing.T) {
	for _, kind := range []devcache.Kind{devcache.Standalone, devcache.Monorepo} {
		cache, err := devcache.New(devcache.Options{Folder: t.TempDir(), Token: token, Names: []string{"default"}, Private: true, Kind: kind})
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(secretsOf(cache))
		t.Cleanup(server.Close)
		w := &fixture{t: t, key: newKey(t), Client: newClient(t, server.URL+"/default", quick())}
		w.register()
		described, err := w.Cache(t.Context())
		if err != nil || !described.Private || w.Locate(t.Context(), described) {
			t.Errorf("%v: it can be read: %+v, error %v", kind, described, err)
		}
		if at := w.ReadableByNix(t.Context()); at != "" {
			t.Errorf("%v: Nix can read it at %q", kind, at)
		}
	}
}

// A key without a name gets the cache's name.
func TestNamedKeys(t *testing.T) {
	key := newKey(t).Public()
	cache := Cache{Name: "default", PublicKeys: []string{"<empty>", key, "other-1:" + key, "none:x", " " + key + "\n", "\tfile-1:" + key + "\r\n"}}
	if diff := cmp.Diff([]string{"default:" + key, "other-1:" + key, "default:" + key, "file-1:" + key}, cache.NamedKeys()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{key, key, key, key}, cache.Keys()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// More hashes than one call takes are asked for in several.
func TestMissingInChunks(t *testing.T) {
	w := newFixture(t, quick())
	s := small(t)
	if _, err := w.push(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	hashes := []string{s.Hash()}
	for i := range maxHashes + 10 {
		hashes = append(hashes, Path{StorePath: storePathOf(fmt.Sprint(i))}.Hash())
	}
	missing, err := w.Missing(t.Context(), hashes)
	if err != nil {
		t.Fatal(recorder.keep(err))
	}
	if !slices.Equal(missing, hashes[1:]) {
		t.Errorf("%d are missing, want %d", len(missing), len(hashes)-1)
	}
	if missing, err := w.Missing(t.Context(), nil); err != nil || len(missing) != 0 {
		t.Errorf("of nothing %v is missing; error %v", missing, err)
	}
}

// A closure of 10,000 paths can be pushed to each kind of cache. Iglu Cache accepts only 100 KiB in a request.
func TestMissingOfLargeClosure(t *testing.T) {
	inEachKind(t, func(t *testing.T, b *bubble) {
		var hashes []string
		for i := range 10_000 {
			hashes = append(hashes, Path{StorePath: storePathOf(fmt.Sprint(i))}.Hash())
		}
		missing, err := b.Missing(t.Context(), hashes)
		if err != nil || !slices.Equal(missing, hashes) {
			t.Errorf("%d are missing, want %d; error %v", len(missing), len(hashes), recorder.keep(err))
		}
	})
}

func TestMissingAnswers(t *testing.T) {
	w := newFixture(t, quick())
	for _, answer := range []string{"OK", "", "null", "{}", `["` + strings.Repeat("0", 32) + `"]`, `[1]`} {
		w.cache.Misbehave(devcache.On("POST", "/api/v1/cache/*/narinfo", devcache.Answer(200, answer)))
		if _, err := w.Missing(t.Context(), []string{small(t).Hash()}); !errors.Is(recorder.keep(err), NotCachix) {
			t.Errorf("%q: error %v, want %v", answer, err, NotCachix)
		}
	}
}

// The key and signature of go-nix's own tests, in which curl is signed.
func TestSignAsNix(t *testing.T) {
	const secret = "jbX9NxZp8WB/coK8k7yLf0gNYmBbIbCrOFwgJgI7OV+0sASf4R5oFQlioSlN3bJ56uvshzr7S9Z75pcv+9hSkQ=="
	hash, err := parseHash("sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0")
	if err != nil {
		t.Fatal(err)
	}
	p := Path{StorePath: "/nix/store/syd87l2rxw8cbsxmxl853h0r6pdwhwjr-curl-7.82.0-bin", NarHash: hash, NarSize: 196040,
		References: []string{ // in no order
			"/nix/store/yxvjs9drzsphm9pcf42a4byzj1kb9m7k-openssl-1.1.1n", "/nix/store/0jqd0rlxzra1rs38rdxl43yh6rxchgc6-curl-7.82.0",
			"/nix/store/j5jxw3iy7bbz4a57fh9g2xm2gxmyal8h-zlib-1.2.12", "/nix/store/6w8g7njm4mck5dmjxws0z1xnrxvl81xa-glibc-2.34-115"}}
	for _, text := range []string{secret, "test1:" + secret, "  test1:" + secret + "\n"} {
		key, err := ParseSigningKey(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := key.Public(), "tLAEn+EeaBUJYqEpTd2yeerr7Ic6+0vWe+aXL/vYUpE="; got != want {
			t.Errorf("public key %s, want %s", got, want)
		}
		const want = "519iiVLx/c4Rdt5DNt6Y2Jm6hcWE9+XY69ygiWSZCNGVcmOcyL64uVAJ3cV8vaTusIZdbTnYo9Y7vDNeTmmMBQ=="
		if got := key.Sign(p.Fingerprint()); got != want {
			t.Errorf("signature %s, want %s", got, want)
		}
	}
}

func TestParseSigningKeyRefuses(t *testing.T) {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.StdEncoding.EncodeToString
	good := encode(private)
	recorder.secret(good)
	recorder.secret(good[:40])
	wrongHalf := slices.Clone(private)
	wrongHalf[63] ^= 1
	for _, text := range []string{"", ":", "name:", "name", good[:40], good + good, encode(private[:32]), "a:b:" + good,
		encode(wrongHalf), good[:50] + "\n" + good[51:], "!" + good[1:]} {
		if _, err := ParseSigningKey(text); recorder.keep(err) == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

// Printing a key in any way prints its public half only.
func TestSigningKeyDoesNotPrint(t *testing.T) {
	key := newKey(t)
	secret := base64.StdEncoding.EncodeToString(key.private)
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", key)
	for _, text := range []string{fmt.Sprint(key), fmt.Sprintf("%v %+v %#v %s", key, key, key, key), log.String()} {
		if strings.Contains(text, secret[:40]) || strings.Contains(text, fmt.Sprintf("%d", key.private[0])+" "+fmt.Sprintf("%d", key.private[1])+" ") ||
			!strings.Contains(text, key.Public()) {
			t.Errorf("printed as %s", text)
		}
	}
}

func FuzzParseSigningKey(f *testing.F) {
	f.Add("name:jbX9NxZp8WB/coK8k7yLf0gNYmBbIbCrOFwgJgI7OV+0sASf4R5oFQlioSlN3bJ56uvshzr7S9Z75pcv+9hSkQ==")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if key, err := ParseSigningKey(text); err == nil && len(key.Sign("x")) != 88 {
			t.Errorf("%q: a key that does not sign", text)
		}
	})
}

func FuzzParseHash(f *testing.F) {
	for _, text := range []string{Hash{1}.String(), "sha256:" + strings.Repeat("0a", 32), "sha256-" + base64.StdEncoding.EncodeToString(make([]byte, 32))} {
		if _, err := parseHash(text); err != nil {
			f.Errorf("%s: %v", text, err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		hash, err := parseHash(text)
		if err != nil {
			return
		}
		if again, err := parseHash(hash.String()); err != nil || again != hash {
			t.Errorf("%q: %v and %v, error %v", text, hash, again, err)
		}
	})
}

func FuzzNarInfo(f *testing.F) {
	f.Add("StorePath: /nix/store/x\nSig: a:b\n")
	f.Fuzz(func(t *testing.T, text string) {
		if fields, err := parseNarInfo(text); err == nil {
			fields.compare(Path{}, Pushed{FileSize: 1}, nil)
		}
	})
}
