package push

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/cachix"
	"iglu.sh/builder/test/kit/devcache"
)

// The permission that a cache reports does not end the push. A refused write ends it immediately.
func TestPermission(t *testing.T) {
	inEachKind(t, func(t *testing.T, f *fixture) {
		for i, permission := range []string{`"Read"`, `"read"`, `""`, `null`, `3`} {
			f.cache.Misbehave(devcache.On("GET", lookUpCall, devcache.Edit(func(_ http.Header, body []byte) []byte {
				return regexp.MustCompile(`"permission":"\w*"`).ReplaceAll(body, []byte(`"permission":`+permission))
			})))
			f.log = nil
			if unpushed := f.run(f.store.add(fmt.Sprint("with-", i))); unpushed != "" {
				t.Errorf("%s: %s", permission, unpushed)
			}
			f.wantTotal(1, 0, 0)
			want := 0
			if strings.Contains(strings.ToLower(permission), "read") {
				want = 1
			}
			if got := f.lines("may only read; Iglu Cache says so of every key"); got != want {
				t.Errorf("%s: said %d times, want %d", permission, got, want)
			}
			f.store = newFakeStore()
		}
		for _, status := range []int{401, 403} {
			begun := f.count("POST", beginCall, devcache.On("POST", beginCall, devcache.Answer(status, "")))
			f.options.Uploads = 1
			unpushed := f.run(f.store.add("a"), f.store.add("b"), f.store.add("c"))
			if want := fmt.Sprintf("the cache does not accept the API key (HTTP %d)", status); !strings.HasPrefix(unpushed, "3 of 3 paths could not be pushed: ") || !strings.Contains(unpushed, want) {
				t.Errorf("unpushed: %q, want %q", unpushed, want)
			}
			if begun.Load() != 1 {
				t.Errorf("%d uploads were tried, want 1", begun.Load())
			}
		}
		f.took(0, 0)
	})
}

// Before the build, permanent errors end the push immediately, and others are retried.
func TestPrepare(t *testing.T) {
	other := base64.StdEncoding.EncodeToString(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32)))
	lookUp := func(fault devcache.Fault) func(*fixture) {
		return func(f *fixture) { f.cache.Misbehave(devcache.On("GET", lookUpCall, fault)) }
	}
	for name, test := range map[string]struct {
		change    func(*fixture)
		want      string
		temporary bool
		least     time.Duration
		most      time.Duration
	}{
		"no such host": {func(f *fixture) { f.options.Target = "http://nowhere/default" }, "the cache cannot be reached: dial tcp: lookup nowhere: no such host", true, 0, 0},
		"nobody listens": {func(f *fixture) { f.kill() }, "the cache cannot be reached: dial tcp cache:80: connect: connection refused; check buildOptions.cachix.target, " +
			"and that the cache is up", true, 90 * time.Second, 90 * time.Second},
		"never answers":   {lookUp(devcache.Hang()), "the cache does not answer in time", true, 90 * time.Second, 2 * time.Minute},
		"503 always":      {lookUp(devcache.Answer(503, "")), "the cache fails (HTTP 503)", true, 90 * time.Second, 90 * time.Second},
		"500 always":      {lookUp(devcache.Answer(500, "")), "the cache fails (HTTP 500)", true, 3750 * time.Millisecond, 7500 * time.Millisecond},
		"another name":    {func(f *fixture) { f.options.Target += "-2" }, "there is no such cache (HTTP 404): … check the name at the end of buildOptions.cachix.target", false, 0, 0},
		"another API key": {func(f *fixture) { f.options.Token = "another" }, "the cache does not accept the API key (HTTP 403): … check buildOptions.cachix.apiKey", false, 0, 0},
		"400":             {lookUp(devcache.Answer(400, "")), "the cache has no public signing key yet", false, 0, 0},
		"418":             {lookUp(devcache.Answer(418, "")), "the cache refuses it (HTTP 418); check buildOptions.cachix.target", false, 0, 0},
		"no cache":        {lookUp(devcache.Answer(200, "OK")), "that is no answer of a cachix-compatible cache; check the address", false, 0, 0},
		"another signing key": {func(f *fixture) { f.options.SigningKey = other }, "the signing key belongs to none of the cache's public keys, so Nix would not accept what it signs; " +
			"give the private half of ", false, 0, 0},
		"no signing key that is one": {func(f *fixture) { f.options.SigningKey = "AAAA" }, "the signing key is not the base64 of 64 bytes, as 'cachix generate-keypair' writes it; " +
			"check buildOptions.cachix.signingKey", false, 0, 0},
		"no target that is one": {func(f *fixture) { f.options.Target = "cache" }, "the cache's address is not one such as https://cache.example.com/default", false, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inEachKind(t, func(t *testing.T, f *fixture) {
				kill := f.kill
				test.change(f)
				_, err := f.prepare()
				refusal, ok := errors.AsType[*Refusal](err)
				begin, end, _ := strings.Cut(test.want, "…")
				if !ok || !strings.Contains(err.Error(), begin) || !strings.Contains(err.Error(), strings.TrimSpace(end)) || refusal.Temporary != test.temporary {
					t.Errorf("error %v, want %q", err, test.want)
				}
				// A headline begins with what matters.
				if strings.HasPrefix(test.want, "the cache ") && !strings.HasPrefix(refusal.Reason, test.want[:14]) {
					t.Errorf("headline %q of %q", refusal.Reason, err)
				}
				f.took(test.least, test.most)
				if retried := f.lines("; trying again"); (retried > 0) != (test.most > 0) {
					t.Errorf("%d lines say that it is tried again: %q", retried, f.log)
				}
				f.kill = kill
			})
		})
	}
}

// There is a warning about each property that a cache does not report.
func TestPrepareWarns(t *testing.T) {
	inEachKind(t, func(t *testing.T, f *fixture) {
		f.cache.Misbehave(devcache.On("GET", lookUpCall, devcache.Replace(f.public(), "null")),
			devcache.On("GET", "/default/*", devcache.Answer(400, "Cache not allowed")))
		path := f.store.add("path")
		if unpushed := f.run(path); unpushed != "" {
			t.Error(unpushed)
		}
		f.wantLine("0: the results are pushed to http://cache/default")
		f.wantLine("0: warning: the cache does not publish its public keys: if " + f.public() + " is not trusted by its users, Nix will not accept what is pushed")
		f.wantLine("0: warning: the cache cannot be read from here: what is pushed will not be checked")
		f.wantTotal(1, 0, 0)
		f.wantPaths(1)
	})
}

// Nix gets its substituter from a private cache that it can read with the API key, and a line says so if it cannot.
func TestSubstituter(t *testing.T) {
	for _, kind := range devcache.Kinds() {
		for _, private := range []bool{false, true} {
			inBubble(t, kind, func(t *testing.T, f *fixture) {
				f.kill()
				f.private = private
				f.start()
				p, err := f.prepare()
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				readable := private && kind == devcache.Strict // nobody can read a private cache of Iglu Cache
				got, ok := p.Substituter()
				if ok != readable || ok && (got.URL != f.options.Target || len(got.Keys) != 1 || !strings.HasSuffix(got.Keys[0], ":"+f.public())) {
					t.Errorf("%s, private %t: %t, %+v", kind, private, ok, got)
				}
				if said := f.lines("Nix cannot read it: nothing is downloaded from it"); (said > 0) != (private && !readable) {
					t.Errorf("%s, private %t: the log is %q", kind, private, f.log)
				}
			})
		}
	}
}

// Users get what was pushed from the address at which the cache can be read, with a key whose name is that of the
// cache's signatures: the name that the cache publishes, or its own. Of a cache that signs, it is one of its keys.
func TestSource(t *testing.T) {
	inBubble(t, devcache.Strict, func(t *testing.T, f *fixture) {
		kill := f.network.Serve("default.cache:80", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "StoreDir: /nix/store\n")
		}))
		defer kill()
		own, named, other := "default:"+f.public(), "default.cache-1:"+f.public(), "other-1:"+base64.StdEncoding.EncodeToString(make([]byte, 32))
		for _, test := range []struct {
			signingKey string
			elsewhere  bool
			want       Substituter
		}{
			{f.options.SigningKey, false, Substituter{"http://cache/default", []string{own, named}}},
			{f.options.SigningKey, true, Substituter{"http://default.cache", []string{own, named}}},
			{"", true, Substituter{"http://default.cache", []string{other, named}}},
		} {
			faults := []devcache.Fault{devcache.On("GET", lookUpCall, devcache.Answer(200, fmt.Sprintf(
				`{"name":"default","uri":"http://default.cache","isPublic":true,"publicSigningKeys":[%q,%q],"permission":"Write"}`, other, named)))}
			if test.elsewhere {
				faults = append(faults, devcache.On("GET", "/default/nix-cache-info", devcache.Answer(404, "")))
			}
			f.cache.Misbehave(faults...)
			f.options.SigningKey = test.signingKey
			p, err := f.prepare()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, p.Source()); diff != "" {
				t.Errorf("elsewhere %t, signs %t (-want +got):\n%s", test.elsewhere, test.signingKey != "", diff)
			}
			p.Close()
		}
	})
}

// A path is an upstream's if one of its signatures is by a key of an upstream that is not a key of the cache, too.
func TestTrust(t *testing.T) {
	keyOf := func(seed byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32)) }
	encode := base64.StdEncoding.EncodeToString
	public := func(key ed25519.PrivateKey) string { return encode(key[32:]) }
	upstream, other, ofCache, signing := keyOf(1), keyOf(2), keyOf(3), keyOf(4)
	store := newFakeStore()
	path := describe(store.infos[store.add("path")])
	signature := func(name string, key ed25519.PrivateKey) string {
		return name + ":" + encode(ed25519.Sign(key, []byte(path.Fingerprint())))
	}
	parsed, err := cachix.ParseSigningKey(encode(signing))
	if err != nil {
		t.Fatal(err)
	}
	trusted := newTrust([]string{
		"up-1:" + public(upstream), "cache-1:" + public(ofCache), "signing-1:" + public(signing),
		"short-1:" + encode(upstream[32:60]), "secret-1:" + encode(upstream), "garbage-1:" + public(upstream) + "!", "no-key", "",
	}, []string{public(ofCache)}, parsed)
	for name, test := range map[string]struct {
		signatures []string
		want       bool
	}{
		"none":                      {nil, false},
		"the upstream's":            {[]string{signature("up-1", upstream)}, true},
		"one of several":            {[]string{signature("unknown-1", other), "up-1:!", "up-1", signature("up-1", upstream)}, true},
		"by another key":            {[]string{signature("up-1", other)}, false},
		"under another name":        {[]string{signature("up-2", upstream)}, false},
		"no base64":                 {[]string{signature("up-1", upstream) + "!"}, false},
		"of the cache":              {[]string{signature("cache-1", ofCache), signature("signing-1", signing)}, false},
		"by keys that are not keys": {[]string{signature("short-1", upstream), signature("secret-1", upstream), signature("garbage-1", upstream)}, false},
	} {
		if got := trusted.signed(path, test.signatures); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if !newTrust([]string{"signing-1:" + public(signing)}, nil, nil).signed(path, []string{signature("signing-1", signing)}) {
		t.Error("an upstream's key counts as the job's, which has none")
	}
}
