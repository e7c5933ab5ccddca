package cachix

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/test/kit/devcache"
)

const narGet = "/default/nar/*"

// The descriptions that caches send, in all types that they use. Only what does not describe a cache is
// refused.
func TestDescriptions(t *testing.T) {
	for text, want := range map[string]Cache{
		`{"name":"default","uri":"http://cache","isPublic":true,"publicSigningKeys":["a:b"],"permission":"Read"}`: {Name: "default", URI: "http://cache", PublicKeys: []string{"a:b"}, Permission: "Read"},
		`{"name":"default","uri":"http://cache/default","isPublic":"true","priority":40,"permission":""}`:         {Name: "default", URI: "http://cache/default"},
		`{"name":"default","isPublic":false}`:                                                         {Name: "default", Private: true},
		`{"name":"default","isPublic":"false"}`:                                                       {Name: "default", Private: true},
		`{"name":"default","uri":null,"isPublic":7,"publicSigningKeys":"<empty>","permission":false}`: {Name: "default"},
		`{"name":1,"publicSigningKeys":["<empty>",null,3,"a:b"]}`:                                     {PublicKeys: []string{"<empty>", "", "", "a:b"}},
		`{"publicSigningKeys":[]}`:                                                                    {PublicKeys: []string{}},
		`{"name":"","uri":"http://x"}`:                                                                {URI: "http://x"},
		`{"publicSigningKeys":null}`:                                                                  {},
		`{}`:                                                                                          {},
	} {
		var got Cache
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
		if want := want.Name != "" || want.PublicKeys != nil; got.described() != want {
			t.Errorf("%s: described: %v, want %v", text, !want, want)
		}
	}
	for _, text := range []string{`[]`, `"default"`, `3`} {
		if err := json.Unmarshal([]byte(text), &Cache{}); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
}

// Each kind of cache is accepted as a cache to push to.
func TestCacheOfEachKind(t *testing.T) {
	inEachKind(t, func(t *testing.T, b *bubble) {
		cache, err := b.Client.Cache(t.Context())
		if err != nil {
			t.Fatal(recorder.keep(err))
		}
		if permission := map[bool]string{true: "Write", false: "Read"}[b.kind == devcache.Strict]; cache.Name != "default" ||
			cache.Permission != permission || !slices.Equal(cache.Keys(), []string{b.key.Public()}) {
			t.Errorf("got %+v", cache)
		}
		if !b.Locate(t.Context(), cache) {
			t.Error("it cannot be read")
		}
	})
}

// Has finds a path that was pushed with any of several keys. It makes one call for the narinfo and one for the
// archive.
func TestHas(t *testing.T) {
	inEachKind(t, func(t *testing.T, b *bubble) {
		s := large(t)
		has := func(keys ...string) bool {
			t.Helper()
			has, err := b.Has(t.Context(), s.Path, keys...)
			if recorder.keep(err) != nil {
				t.Error(err)
			}
			return has
		}
		if has(b.key.Public()) {
			t.Error("it has what was not pushed")
		}
		if _, err := b.push(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		var calls atomic.Int64
		b.cache.Misbehave(counting(&calls))
		other := newKey(t).Public()
		for want, keys := range map[bool][][]string{
			true:  {{b.key.Public()}, {other, b.key.Public()}, {}, {"no key"}},
			false: {{other}},
		} {
			for _, keys := range keys {
				if has(keys...) != want {
					t.Errorf("signed by one of %q: %v", keys, !want)
				}
			}
		}
		if calls.Load() != 9 { // no archive is looked for where the signature is another's
			t.Errorf("%d calls, want 9", calls.Load())
		}
		if took := time.Since(b.begun); took != 0 {
			t.Errorf("took %s", took)
		}
		b.wantNotices()
	})
}

// A path without a signature counts as missing, in whichever way the cache reports that.
func TestHasUnsigned(t *testing.T) {
	inBubble(t, devcache.Monorepo, Options{}, func(t *testing.T, b *bubble) {
		s := small(t)
		pushed, err := b.Push(t.Context(), s.Path, s.nar, nil)
		if err != nil {
			t.Fatal(recorder.keep(err))
		}
		if err := recorder.keep(b.Verify(t.Context(), s.Path, pushed, nil)); err != nil {
			t.Error(err)
		}
		if has, err := b.Has(t.Context(), s.Path, b.key.Public()); has || err != nil {
			t.Errorf("has it: %v, error %v", has, err)
		}
		if err := recorder.keep(b.Verify(t.Context(), s.Path, pushed, b.key)); !errors.Is(err, NotAsPushed) {
			t.Errorf("error %v, want %v", err, NotAsPushed)
		}
	})
}

// The cache has another build of a path, whose archive differs. Has finds it only with the keys by one of which it is signed, and
// HasOther finds no path of the same build.
func TestOtherBuild(t *testing.T) {
	inBubble(t, devcache.Strict, Options{}, func(t *testing.T, b *bubble) {
		s := describe(t, "small-1.0", file(1, 1000), storePathOf("lib-1.0"))
		if _, err := b.push(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		ours := s.Path
		ours.NarHash, ours.NarSize, ours.References = Hash{1}, 1, nil
		key, other := b.key.Public(), newKey(t).Public()
		want := func(what string, p Path, has, hasOther bool, keys ...string) {
			t.Helper()
			if got, err := b.Has(t.Context(), p, keys...); got != has || recorder.keep(err) != nil {
				t.Errorf("%s: has it: %t, error %v", what, got, err)
			}
			if got := b.HasOther(t.Context(), p, keys...); got != hasOther {
				t.Errorf("%s: has it of another build: %t", what, got)
			}
		}
		want("another build", ours, true, true, key)
		want("another build, with a second key", ours, true, true, other, key)
		want("another build, of another key", ours, false, false, other)
		want("another build, without a key", ours, false, false)
		want("the same build", s.Path, true, false, key)
		want("the same build, without a key", s.Path, true, false)
		for field, value := range map[string]string{"NarHash": "md5:abc", "NarSize": "0", "References": "lib-1.0"} {
			b.cache.Misbehave(devcache.On("GET", narInfoGet, devcache.ReplaceField(field, value)))
			want("another build, whose "+field+" is "+value, ours, false, false, key)
		}
	})
}

// If the cache does not answer, Has returns an error: the path is neither there nor missing.
func TestHasUnknown(t *testing.T) {
	inBubble(t, devcache.Strict, Options{}, func(t *testing.T, b *bubble) {
		b.cache.Misbehave(devcache.On("GET", narInfoGet, devcache.Answer(401, "")))
		if has, err := b.Has(t.Context(), small(t).Path); has || !errors.Is(recorder.keep(err), KeyRefused) {
			t.Errorf("has it: %v, error %v", has, err)
		}
	})
}

// A second cache of Iglu Cache shows the narinfo of a path that was pushed to the first, but has no NAR. The path
// counts as missing.
func TestNarinfoWithoutNar(t *testing.T) {
	inBubble(t, devcache.Monorepo, Options{}, func(t *testing.T, b *bubble) {
		s := small(t)
		if _, err := b.push(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		second := newClient(t, "http://cache/second", Options{Dial: b.network.Dial})
		defer second.Close()
		pushed, err := second.Push(t.Context(), s.Path, s.nar, b.key)
		if err != nil {
			t.Fatal(recorder.keep(err))
		}
		err = recorder.keep(second.Verify(t.Context(), s.Path, pushed, b.key))
		if want := "read back small-1.0 from http://cache/second: the cache does not show what was pushed (HTTP 404): its narinfo is there, and its NAR is not"; err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
		if has, err := second.Has(t.Context(), s.Path); has || err != nil {
			t.Errorf("has it: %v, error %v", has, err)
		}
	})
}

// Has finds everything that can be wrong with an archive's first bytes or size. A HEAD request might not.
func TestVerifyNar(t *testing.T) {
	zst := "\x28\xb5\x2f\xfd"
	for name, test := range map[string]struct {
		fault devcache.Fault
		want  string // nothing: the path is there
	}{
		"404":                            {devcache.Answer(404, ""), "(HTTP 404): its narinfo is there, and its NAR is not"},
		"an error with an address":       {devcache.Answer(500, "", "Location", "http://store/default/nar/moved"), "the cache fails (HTTP 500)"},
		"404 at first":                   {devcache.Times(4, devcache.Answer(404, "")), ""},
		"403":                            {devcache.Answer(403, "words of an object store"), "the cache does not accept the API key (HTTP 403)"},
		"500":                            {devcache.Answer(500, ""), "the cache fails (HTTP 500)"},
		"503 once":                       {once(devcache.Answer(503, "")), ""},
		"unknown route is 200":           {devcache.Answer(200, "OK"), "its NAR has 2 bytes, and "},
		"empty":                          {devcache.Answer(200, ""), "its NAR has 0 bytes, and "},
		"another size":                   {devcache.Answer(206, zst+strings.Repeat("x", 28), "Content-Range", "bytes 0-31/77"), "its NAR has 77 bytes, and "},
		"another archive":                {devcache.Answer(206, strings.Repeat("x", 32), "Content-Range", "bytes 0-31/*"), `its NAR is not compressed with "zstd", as its narinfo says`},
		"a beginning that is none":       {devcache.Answer(206, zst[:3], "Content-Range", "bytes 0-2/*"), `its NAR is not compressed with "zstd"`},
		"an unknown size":                {devcache.Answer(206, zst, "Content-Range", "bytes 0-3/*"), ""},
		"no Content-Range":               {devcache.Answer(206, zst), ""},
		"without ranges":                 {withoutRange, ""},
		"at another host":                {devcache.Answer(302, "", "Location", "http://store/default/nar/moved?secret=1"), ""},
		"at a store without a list":      {devcache.Answer(302, "", "Location", "http://store/default/secret"), "(HTTP 403): its narinfo is there, and its NAR is not"},
		"at another host, which has not": {devcache.Answer(302, "", "Location", "http://store/default/other"), "(HTTP 404): its narinfo is there, and its NAR is not"},
		"at another host, which asks":    {devcache.Answer(302, "", "Location", "http://store/default/asks"), "the cache refuses it (HTTP 401)"},
		"always elsewhere":               {devcache.Answer(307, "", "Location", "/default/nar/"), "its NAR is always elsewhere"},
		"elsewhere of another scheme":    {devcache.Answer(302, "", "Location", "ftp://store/nar"), "it redirects to ftp://store"},
		"nowhere":                        {devcache.Answer(304, ""), "that is no answer of a cachix-compatible cache"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, devcache.Standalone, Options{}, func(t *testing.T, b *bubble) {
				s := large(t)
				pushed, err := b.push(t.Context(), s)
				if err != nil {
					t.Fatal(err)
				}
				store := b.network.Serve("store:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Header.Get("Authorization") != "" {
						t.Error("the API key went elsewhere")
					}
					if r.URL.Path != "/default/nar/moved" {
						w.WriteHeader(map[string]int{"/default/secret": 403, "/default/asks": 401, "/default/other": 404}[r.URL.Path])
						return
					}
					w.Write([]byte(strings.Repeat(zst, int(pushed.FileSize)/4+1))[:pushed.FileSize])
				}))
				defer store()
				b.cache.Misbehave(devcache.On("GET", narGet, test.fault), devcache.On("GET", "/default/nar/", test.fault))
				err = recorder.keep(b.Verify(t.Context(), s.Path, pushed, b.key))
				if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want %q", err, test.want)
				}
				if err != nil && (strings.Contains(err.Error(), "words of") || strings.Contains(err.Error(), "secret")) {
					t.Errorf("it repeats too much: %v", err)
				}
				b.transport.http.CloseIdleConnections()
			})
		})
	}
}

// withoutRange makes a cache ignore Range, and send whole archives.
func withoutRange(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Range")
		next.ServeHTTP(w, r)
	})
}

// The first bytes must match the compression in the narinfo, or Nix's default if it has none.
func TestCheckBegin(t *testing.T) {
	for _, test := range []struct {
		compression, begin string
		size               int64
		right              bool
	}{
		{"zstd", "\x28\xb5\x2f\xfd.", 10, true}, {"zstd", "\xfd7zXZ\x00", 10, false}, {"zstd", "", -1, false},
		{"xz", "\xfd7zXZ\x00.", -1, true}, {"xz", "\xfd7zXZ", -1, false},
		{"none", "\x0d\x00\x00\x00\x00\x00\x00\x00nix-archive-1.", 10, true}, {"none", "nix-archive-1", 10, false},
		{"", "BZh9", 10, true}, {"bzip2", "BZh9", 10, true}, {"", "\x28\xb5\x2f\xfd", 10, false},
		{"br", "anything", 10, true}, {"br", "", 10, false}, {"br", "anything", 11, false}, {"br", "anything", 0, false},
	} {
		fields := narInfoFields{"FileSize": {"10"}}
		if test.compression != "" {
			fields["Compression"] = []string{test.compression}
		}
		if got := fields.checkBegin([]byte(test.begin), test.size); (got == "") != test.right {
			t.Errorf("%s %q of %d bytes: %q", test.compression, test.begin, test.size, got)
		}
	}
	if got := (narInfoFields{"Compression": {"br"}}).checkBegin([]byte("x"), 5); got != "" {
		t.Errorf("of no known size: %s", got)
	}
}

// The archive is asked for by its first bytes, and the connection is used again.
func TestNarIsNotRead(t *testing.T) {
	inBubble(t, devcache.Strict, Options{}, func(t *testing.T, b *bubble) {
		s := describe(t, "huge-1.0", file(3, 40*testPart))
		pushed, err := b.push(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		var written atomic.Int64
		b.cache.Misbehave(devcache.On("GET", narGet, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get("Range"); got != "bytes=0-31" {
					t.Errorf("Range: %q", got)
				}
				next.ServeHTTP(countingWriter{w, &written}, r)
			})
		}))
		for range 3 {
			if err := recorder.keep(b.Verify(t.Context(), s.Path, pushed, b.key)); err != nil {
				t.Error(err)
			}
		}
		if written.Load() != 3*32 {
			t.Errorf("%d bytes were sent, want 96", written.Load())
		}
		b.cache.Misbehave(devcache.On("GET", narGet, withoutRange))
		if err := recorder.keep(b.Verify(t.Context(), s.Path, pushed, b.key)); err != nil {
			t.Error(err)
		}
		synctest.Wait()
	})
}

type countingWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (w countingWriter) Write(b []byte) (int, error) {
	w.n.Add(int64(len(b)))
	return w.ResponseWriter.Write(b)
}

// If a cache's description has another address, the client looks there once, without retries.
func TestLocateElsewhereIsNotWaitedFor(t *testing.T) {
	inBubble(t, devcache.Standalone, Options{}, func(t *testing.T, b *bubble) {
		b.cache.Misbehave(devcache.On("GET", "/default/nix-cache-info", devcache.Answer(400, "")))
		kill := b.network.Serve("gone:80", http.NotFoundHandler())
		kill()
		if b.Locate(t.Context(), Cache{URI: "http://gone"}) {
			t.Error("it was found")
		}
		if took := time.Since(b.begun); took != 0 {
			t.Errorf("took %s", took)
		}
	})
}

// A description's address that is none of a cache is not looked at.
func TestLocateAtNoAddress(t *testing.T) {
	w := newFixture(t, quick())
	w.cache.Misbehave(devcache.On("GET", "/default/nix-cache-info", devcache.Answer(400, "")))
	for _, uri := range []string{"", "http://[::bad", "ftp://host", "http:///default", "s3://bucket", "/default"} {
		if w.Locate(t.Context(), Cache{URI: uri}) {
			t.Errorf("it was found at %q", uri)
		}
	}
}

// Cachix has its caches at other addresses than those to which clients push. Nothing is tried again before a cache
// is found there.
func TestLocateElsewhere(t *testing.T) {
	inBubble(t, devcache.Strict, Options{}, func(t *testing.T, b *bubble) {
		b.cache.Misbehave(devcache.On("GET", "/default/nix-cache-info", devcache.Answer(404, "")))
		kill := b.network.Serve("default.cache:80", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "StoreDir: /nix/store\n")
		}))
		defer kill()
		cache, err := b.Client.Cache(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		cache.URI = "http://default.cache/"
		if found := b.Locate(t.Context(), cache); !found || b.Address() != "http://default.cache" {
			t.Errorf("found %t, at %s", found, b.Address())
		}
		if took := time.Since(b.begun); took != 0 || len(b.notices) > 0 {
			t.Errorf("took %s, said %q", took, b.notices)
		}
		b.transport.http.CloseIdleConnections()
	})
}

// A cache that can be read where paths are pushed to is read there, whatever other address its description has.
func TestLocateAtHome(t *testing.T) {
	inBubble(t, devcache.Strict, Options{}, func(t *testing.T, b *bubble) {
		kill := b.network.Serve("default.cache:80", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			t.Error("it is looked for elsewhere")
		}))
		defer kill()
		if found := b.Locate(t.Context(), Cache{URI: "http://default.cache"}); !found || b.Address() != "http://cache/default" {
			t.Errorf("found %t, at %s", found, b.Address())
		}
	})
}

// The other address in a description is one of http or https, and has no password and no options.
func TestOtherAddress(t *testing.T) {
	const home = "https://cache.example.com/default"
	for uri, want := range map[string]string{
		"https://default.example.com/": "https://default.example.com", "http://other.example.com/a": "http://other.example.com/a",
		"": "", home: "", home + "/": "", "ftp://host/a": "", "https:///a": "", "https://a:b@host/a": "", "https://host/a?trusted=1": "",
	} {
		if got := otherAddress(Cache{URI: uri}, home); got != want {
			t.Errorf("%s: %q, want %q", uri, got, want)
		}
	}
}

// A cache that is read on another host is not asked with the API key whether Nix could read it with that.
func TestReadableElsewhere(t *testing.T) {
	inBubble(t, devcache.Strict, Options{}, func(t *testing.T, b *bubble) {
		kill := b.network.Serve("store:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				t.Error("the API key went elsewhere")
			}
			if r.URL.Path != "/nix-cache-info" {
				w.WriteHeader(404)
				return
			}
			io.WriteString(w, "StoreDir: /nix/store\n")
		}))
		defer kill()
		b.cache.Misbehave(devcache.On("GET", "/default/nix-cache-info", devcache.Answer(404, "")))
		if !b.Locate(t.Context(), Cache{URI: "http://store"}) {
			t.Fatal("the cache was not found")
		}
		if at := b.ReadableByNix(t.Context()); at != "" {
			t.Errorf("Nix can read it at %s", at)
		}
		b.transport.http.CloseIdleConnections()
	})
}

// A cache that is read from an object store answers 403 for a path that it does not have. That does not mean that the API
// key is wrong, which it has not been sent.
func TestHasAtAnObjectStore(t *testing.T) {
	for status, want := range map[int]error{403: nil, 401: Refused} {
		inBubble(t, devcache.Strict, Options{}, func(t *testing.T, b *bubble) {
			kill := b.network.Serve("store:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/nix-cache-info" {
					w.WriteHeader(status)
					return
				}
				io.WriteString(w, "StoreDir: /nix/store\n")
			}))
			defer kill()
			b.cache.Misbehave(devcache.On("GET", "/default/nix-cache-info", devcache.Answer(404, "")))
			if !b.Locate(t.Context(), Cache{URI: "http://store"}) {
				t.Fatal("the cache was not found")
			}
			if has, err := b.Has(t.Context(), small(t).Path); has || !errors.Is(recorder.keep(err), want) {
				t.Errorf("%d: has %t, error %v, want %v", status, has, err, want)
			}
			b.transport.http.CloseIdleConnections()
		})
	}
}

// An address with a query is not used: in a substituter's URL, Nix reads it as options, and with "trusted=1" it accepts
// paths without signatures. The address is a part of the command that gets a job's results.
func TestLocateElsewhereWithOptions(t *testing.T) {
	inBubble(t, devcache.Strict, Options{}, func(t *testing.T, b *bubble) {
		b.cache.Misbehave(devcache.On("GET", "/default/nix-cache-info", devcache.Answer(400, "")))
		kill := b.network.Serve("default.cache:80", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "StoreDir: /nix/store\n")
		}))
		defer kill()
		for _, uri := range []string{"http://default.cache/?trusted=1", "http://default.cache?trusted=1", "http://default.cache/#a", "http://a:b@default.cache"} {
			if b.Locate(t.Context(), Cache{URI: uri}) {
				t.Errorf("it was found at %s, and its address is %s", uri, b.Address())
			}
		}
		b.transport.http.CloseIdleConnections()
	})
}

// The API key is sent to the cache's host only, whatever URL a narinfo has.
func TestURLOfNar(t *testing.T) {
	inBubble(t, devcache.Strict, Options{}, func(t *testing.T, b *bubble) {
		s := small(t)
		pushed, err := b.push(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		elsewhere := b.network.Serve("elsewhere:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				t.Error("the API key went elsewhere")
			}
			w.WriteHeader(403)
		}))
		defer elsewhere()
		for url, want := range map[string]string{"http://elsewhere/nar": "(HTTP 403): its narinfo is there, and its NAR is not", ":": "its URL is none", "http://[": "its URL is none"} {
			b.cache.Misbehave(devcache.On("GET", narInfoGet, devcache.ReplaceField("URL", url)))
			if err := recorder.keep(b.Verify(t.Context(), s.Path, pushed, b.key)); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want %s", url, err, want)
			}
		}
		b.transport.http.CloseIdleConnections()
	})
}

// Invalid keys are ignored, also if their base64 is valid.
func TestHasIgnoresWhatIsNoKey(t *testing.T) {
	inBubble(t, devcache.Strict, Options{}, func(t *testing.T, b *bubble) {
		s := small(t)
		if _, err := b.push(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		short := base64.StdEncoding.EncodeToString(make([]byte, 31))
		if has, err := b.Has(t.Context(), s.Path, short, newKey(t).Public()); has || err != nil {
			t.Errorf("has it: %v, error %v", has, err)
		}
	})
}
