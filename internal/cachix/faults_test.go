package cachix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"iglu.sh/builder/test/kit/await"
	"iglu.sh/builder/test/kit/devcache"
)

// Patterns of the protocol's calls.
const (
	aboutCache = "/api/v1/cache/*"
	aboutBegin = "/api/v1/cache/*/multipart-nar"
	aboutPart  = "/api/v1/cache/*/multipart-nar/*"
	aboutEnd   = "/api/v1/cache/*/multipart-nar/*/complete"
	aboutAbort = "/api/v1/cache/*/multipart-nar/*/abort"
	sentPart   = "/upload/*/*/*"
	sentPart2  = "/upload/*/*/2"
	narInfoGet = "/default/*.narinfo"
)

// once is a fault for one request.
func once(f devcache.Fault) devcache.Fault { return devcache.Times(1, f) }

// soon bounds how long an immediate end may take on a busy machine. It is shorter than every timeout in these tests.
const soon = 5 * time.Second

// endedSoon fails a test if something did not end immediately.
func endedSoon(t *testing.T, start time.Time) {
	t.Helper()
	if took := time.Since(start); took > soon {
		t.Errorf("took %v, want at most %v", took, soon)
	}
}

// failure is an answer of a cache, and the error that the client must return.
type failure struct {
	name  string
	fault devcache.Fault
	want  error // nil if the client must succeed after a retry
}

// For every call: permanent errors end it immediately, others are retried, and the path is announced only on
// success.
func TestPushFaults(t *testing.T) {
	calls := []struct{ name, method, path string }{
		{"begin", "POST", aboutBegin}, {"part URL", "POST", aboutPart}, {"part", "PUT", sentPart},
		{"second part", "PUT", sentPart2}, {"complete", "POST", aboutEnd},
	}
	failures := []failure{
		{"400", devcache.Answer(400, `{"error":"no"}`), Refused},
		{"401", devcache.Answer(401, "who are you"), KeyRefused},
		{"403", devcache.Answer(403, "not you"), KeyRefused},
		{"404", devcache.Answer(404, "what"), Refused},
		{"302", devcache.Answer(302, "", "Location", "https://elsewhere.example.com/?"+token), NotCachix},
		{"408 once", once(devcache.Answer(408, "")), nil},
		{"429 once", once(devcache.Answer(429, "", "Retry-After", "0")), nil},
		{"429 always", devcache.Answer(429, "later"), Busy},
		{"500 once", once(devcache.Answer(500, "oh")), nil},
		{"500 always", devcache.Answer(500, "oh "+token), Failing},
		{"503 once, maybe later", once(devcache.Answer(503, "", "Retry-After", time.Now().UTC().Format(http.TimeFormat))), nil},
		{"broken off once", once(devcache.BreakOff(100)), nil},
		{"broken off always", devcache.BreakOff(100), Unreachable},
		{"answer lost once", once(devcache.LoseAnswer()), nil},
	}
	for _, call := range calls {
		for _, f := range failures {
			t.Run(call.name+"/"+f.name, func(t *testing.T) {
				want := f.want
				if call.method == "PUT" && want == error(KeyRefused) {
					want = Refused // the part's address was not accepted, not the key
				}
				testPushFault(t, devcache.On(call.method, call.path, f.fault), want)
			})
		}
	}
}

func testPushFault(t *testing.T, fault devcache.Fault, want error) {
	w := newFixture(t, quick())
	w.cache.Misbehave(fault)
	s := large(t)
	start := time.Now()
	pushed, err := w.push(t.Context(), s)
	endedSoon(t, start)
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
	if got := w.announced(s.Path); got != (want == nil) {
		t.Errorf("announced: %v", got)
	}
	w.cache.Misbehave()
	if want == nil {
		if err := recorder.keep(w.Verify(t.Context(), s.Path, pushed, w.key)); err != nil {
			t.Error(err)
		}
	}
	// No upload is left, and the client can be used again.
	w.uploader.aborter.aborts.Wait()
	if n := w.uploads(); want != nil && n != 0 {
		t.Errorf("%d uploads are left", n)
	}
	if _, err := w.push(t.Context(), s); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// Answers that violate the protocol.
func TestNotCachix(t *testing.T) {
	for name, fault := range map[string]devcache.Fault{
		"unknown route is 200":    devcache.On("POST", aboutBegin, devcache.Answer(200, "OK")),
		"empty upload":            devcache.On("POST", aboutBegin, devcache.Answer(200, "{}")),
		"upload without an ID":    devcache.On("POST", aboutBegin, devcache.Answer(200, `{"narId":"some"}`)),
		"upload without a NAR":    devcache.On("POST", aboutBegin, devcache.Answer(200, `{"uploadId":"some"}`)),
		"null":                    devcache.On("POST", aboutBegin, devcache.Answer(200, "null")),
		"part URL is 200":         devcache.On("POST", aboutPart, devcache.Answer(200, "OK")),
		"no part URL":             devcache.On("POST", aboutPart, devcache.Answer(200, "{}")),
		"part URL is none":        devcache.On("POST", aboutPart, devcache.Answer(200, `{"uploadUrl":"http://[::bad/`+token+`"}`)),
		"part URL has no host":    devcache.On("POST", aboutPart, devcache.Answer(200, `{"uploadUrl":"/upload?`+token+`"}`)),
		"part URL is of a scheme": devcache.On("POST", aboutPart, devcache.Answer(200, `{"uploadUrl":"`+token+`://host/upload"}`)),
		"part URL is of FTP":      devcache.On("POST", aboutPart, devcache.Answer(200, `{"uploadUrl":"ftp://host/upload"}`)),
		"no ETag":                 devcache.On("PUT", sentPart, devcache.WithoutHeader("ETag")),
		"no ETag of the second":   devcache.On("PUT", sentPart2, devcache.WithoutHeader("ETag")),
	} {
		t.Run(name, func(t *testing.T) { testPushFault(t, fault, NotCachix) })
	}
}

// A part is sent to another address if one is not accepted, because it has expired or the part did not arrive as it was
// sent.
func TestAddressThatIsNotAccepted(t *testing.T) {
	for name, fault := range map[string]devcache.Fault{
		"expired":    devcache.Answer(403, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"),
		"too slow":   devcache.Answer(400, "<Error><Code>RequestTimeout</Code></Error>"),
		"wrong MD5":  devcache.Answer(400, `{"error":"The upload got corrupted, try again (Md5 Hash mismatch)"}`),
		"no session": devcache.Answer(401, ""),
	} {
		t.Run(name, func(t *testing.T) {
			w := newFixture(t, quick())
			var addresses atomic.Int64
			w.cache.Misbehave(devcache.On("PUT", sentPart2, once(fault)), devcache.On("POST", aboutPart, counting(&addresses)))
			if _, err := w.push(t.Context(), large(t)); err != nil || addresses.Load() != 4 {
				t.Errorf("error %v, with %d addresses for 3 parts", err, addresses.Load())
			}
		})
	}
}

// The error of a push whose last part is refused is about that part: the upload is not completed then.
func TestErrorOfLastPart(t *testing.T) {
	w := newFixture(t, quick())
	w.cache.Misbehave(devcache.On("PUT", sentPart, devcache.Answer(413, "")))
	_, err := w.push(t.Context(), small(t))
	if want := "send part 1 of small-1.0 to " + w.url + "/default: the cache refuses it (HTTP 413)"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

// If the answer to the completion is lost, the upload is complete all the same: nothing is uploaded twice.
func TestCompleteWithoutAnswer(t *testing.T) {
	w := newFixture(t, quick())
	var begun atomic.Int32
	count := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			begun.Add(1)
			next.ServeHTTP(w, r)
		})
	}
	w.cache.Misbehave(devcache.On("POST", aboutEnd, once(devcache.LoseAnswer())), devcache.On("POST", aboutBegin, count))
	s := small(t)
	if _, err := w.push(t.Context(), s); err != nil || !w.announced(s.Path) || begun.Load() != 1 {
		t.Errorf("%v, announced: %t, after %d uploads", err, w.announced(s.Path), begun.Load())
	}
}

// A cache that has answered before, and now answers 404 and describes something else, counts as down.
func TestAnotherServerAnswers(t *testing.T) {
	w := newFixture(t, quick())
	w.cache.Misbehave(devcache.On("POST", aboutBegin, devcache.Answer(404, "")), devcache.On("GET", aboutCache, devcache.Answer(200, "{}")))
	if _, err := w.push(t.Context(), small(t)); !errors.Is(err, Failing) {
		t.Errorf("error %v, want %v", err, Failing)
	}
}

// If a cache reports a complete upload that is not complete, Verify finds out.
func TestCompleteThatDoesNothing(t *testing.T) {
	w := newFixture(t, quick())
	w.cache.Misbehave(devcache.On("POST", aboutEnd, devcache.Answer(200, "OK")))
	s := small(t)
	pushed, err := w.push(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := recorder.keep(w.Verify(t.Context(), s.Path, pushed, w.key)); !errors.Is(err, NotAsPushed) {
		t.Errorf("error %v, want %v", err, NotAsPushed)
	}
}

// If the cache does not answer, each call ends with its timeout. An abort without an answer delays nothing.
func TestHang(t *testing.T) {
	options := quick()
	options.CallTimeout, options.PartTimeout, options.AbortTimeout = 50*time.Millisecond, 50*time.Millisecond, 100*time.Millisecond
	for name, fault := range map[string]devcache.Fault{
		"begin":    devcache.On("POST", aboutBegin, devcache.Hang()),
		"part URL": devcache.On("POST", aboutPart, devcache.Hang()),
		"part":     devcache.On("PUT", sentPart, devcache.Hang()),
		"complete": devcache.On("POST", aboutEnd, devcache.Hang()),
	} {
		t.Run(name, func(t *testing.T) {
			w := newFixture(t, options)
			w.cache.Misbehave(fault, devcache.On("POST", aboutAbort, devcache.Hang()))
			s := large(t)
			start := time.Now()
			if _, err := w.push(t.Context(), s); !errors.Is(err, TimedOut) {
				t.Errorf("error %v, want %v", err, TimedOut)
			}
			endedSoon(t, start)
			w.Close()
			endedSoon(t, start)
			if w.announced(s.Path) {
				t.Error("it has been announced")
			}
		})
	}
}

// When ctx ends, every call ends, whatever the cache does.
func TestCancel(t *testing.T) {
	gone := errors.New("the client is gone")
	hangs := func(method, path string) func(reached func()) devcache.Fault {
		return func(reached func()) devcache.Fault {
			return devcache.On(method, path, devcache.Tell(reached, devcache.Hang()))
		}
	}
	for name, fault := range map[string]func(reached func()) devcache.Fault{
		"begin":    hangs("POST", aboutBegin),
		"part URL": hangs("POST", aboutPart),
		"part":     hangs("PUT", sentPart),
		"complete": hangs("POST", aboutEnd),
		"waiting": func(func()) devcache.Fault {
			return devcache.On("POST", aboutBegin, devcache.Answer(429, "", "Retry-After", "100"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			options := quick()
			options.CallTimeout, options.PartTimeout, options.AbortTimeout = time.Minute, time.Minute, 100*time.Millisecond
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			options.Notice = func(string) { cancel(gone) } // before it waits
			w := newFixture(t, options)
			w.cache.Misbehave(fault(func() { cancel(gone) }), devcache.On("POST", aboutAbort, devcache.Hang()))
			start := time.Now()
			if _, err := w.push(ctx, large(t)); !errors.Is(err, gone) {
				t.Errorf("error %v, want %v", err, gone)
			}
			endedSoon(t, start)
		})
	}
}

// An archive that never ends stops when ctx does, or when a part cannot be sent.
func TestEndlessArchive(t *testing.T) {
	endless := func(compressible bool) func(io.Writer) error {
		return func(w io.Writer) error {
			for seed := uint64(0); ; seed++ {
				if compressible {
					if _, err := w.Write(make([]byte, 1<<16)); err != nil {
						return err
					}
				} else if err := file(seed, 1<<16)(w); err != nil {
					return err
				}
			}
		}
	}
	w := newFixture(t, quick())
	s := small(t)
	for _, compressible := range []bool{true, false} {
		s.nar = endless(compressible)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		start := time.Now()
		if _, err := w.push(ctx, s); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want %v", err, context.DeadlineExceeded)
		}
		cancel()
		endedSoon(t, start)
	}
	w.cache.Misbehave(devcache.On("PUT", sentPart2, devcache.Answer(400, "")))
	if _, err := w.push(t.Context(), s); !errors.Is(err, Refused) {
		t.Errorf("error %v, want %v", err, Refused)
	}
}

func TestPause(t *testing.T) {
	c := newClient(t, "http://localhost/default", Options{Backoff: time.Second})
	for n, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 4: 5 * time.Second, 5: 5 * time.Second, 1000: 5 * time.Second} {
		for range 100 {
			if got := c.retrier.pause(n, 0); got < want/2 || got > want {
				t.Errorf("after attempt %d: %v, want %v to %v", n, got, want/2, want)
			}
		}
	}
	if got := newClient(t, "http://localhost/default", Options{Backoff: 1}).retrier.pause(1, 0); got != 1 {
		t.Errorf("with the shortest backoff: %v", got)
	}
	if got := c.retrier.pause(1, time.Hour); got != 2*time.Minute {
		t.Errorf("after an hour was asked for: %v, want 2m0s", got)
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{"": 0, "7": 7 * time.Second, "-1": 0, "soon": 0, "99999999999999": 0,
		"Thu, 01 Jan 2026 00:01:00 GMT": time.Minute, "Wed, 31 Dec 2025 00:00:00 GMT": 0} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("Retry-After %q: %v, want %v", text, got, want)
		}
	}
}

// A part is sent to the host in the cache's answer, without the API key.
func TestUploadOnAnotherHost(t *testing.T) {
	w := newFixture(t, quick())
	var parts, keys atomic.Int64
	store := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		parts.Add(1)
		for _, values := range r.Header {
			if strings.Contains(strings.Join(values, " "), token) {
				keys.Add(1)
			}
		}
		w.cache.ServeHTTP(rw, r)
	}))
	defer store.Close()
	w.cache.Misbehave(devcache.On("POST", aboutPart, devcache.Replace(w.url+"/", store.URL+"/")))
	if _, err := w.push(t.Context(), large(t)); err != nil {
		t.Fatal(err)
	}
	if parts.Load() != 3 || keys.Load() != 0 {
		t.Errorf("%d parts came there, want 3; %d with the API key, want none", parts.Load(), keys.Load())
	}
	w.Close() // its connections, before those of the store
}

// A part is sent to where its address has moved, with the same query and without the API key: CACHE_ROOT_DOMAIN of Iglu
// Cache begins with http://, for example, and a proxy redirects to https://.
func TestAddressThatHasMoved(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			w := newFixture(t, quick())
			moving := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				http.Redirect(rw, r, w.url+r.URL.RequestURI(), status)
			}))
			defer moving.Close()
			w.cache.Misbehave(devcache.On("POST", aboutPart, devcache.Replace(w.url+"/", moving.URL+"/")))
			var want error
			if status == 302 || status == 303 { // PUT becomes GET
				want = NotCachix
			}
			if _, err := w.push(t.Context(), large(t)); !errors.Is(err, want) {
				t.Errorf("error %v, want %v", err, want)
			}
			w.Close() // its connections, before those of the server
		})
	}
}

// A part goes neither in circles nor, if its address is one of https, to one of http.
func TestMoved(t *testing.T) {
	for _, test := range []struct{ from, to, want string }{
		{"http://a/x?k=+/=", "https://a/x?k=+/=", "https://a/x?k=+/="},
		{"http://a/x", "/y", "http://a/y"},
		{"https://a/x", "https://b/y", "https://b/y"},
		{"https://a/x", "http://a/x", ""},
		{"http://a/x", "ftp://a/x", ""},
		{"http://a/x", "", ""},
	} {
		response := &http.Response{StatusCode: 308, Header: http.Header{}, Request: httptest.NewRequest("PUT", test.from, nil)}
		if test.to != "" {
			response.Header.Set("Location", test.to)
		}
		if got := moved(response); got != test.want {
			t.Errorf("from %s to %s: %s, want %s", test.from, test.to, got, test.want)
		}
	}
	w := newFixture(t, quick())
	w.cache.Misbehave(devcache.On("PUT", sentPart, devcache.Answer(308, "", "Location", "/upload/a/b/1?"+token)))
	if _, err := w.push(t.Context(), small(t)); !errors.Is(err, NotCachix) {
		t.Errorf("error %v, want %v", err, NotCachix)
	}
}

// Many pushes fail at a cache that answers no abort. No more than options.Uploads aborts run at once.
func TestAbortsAreBounded(t *testing.T) {
	const pushes = 5
	options := quick()
	options.Uploads, options.AbortTimeout = 2, time.Hour
	w := newFixture(t, options)
	arrived := make(chan struct{}, pushes)
	counting := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			arrived <- struct{}{}
			next.ServeHTTP(rw, r)
		})
	}
	w.cache.Misbehave(devcache.On("PUT", sentPart, devcache.Answer(413, "")),
		devcache.On("POST", aboutAbort, devcache.Hang()), devcache.On("POST", aboutAbort, counting))
	for range pushes {
		if _, err := w.push(t.Context(), small(t)); !errors.Is(err, Refused) {
			t.Errorf("error %v, want %v", err, Refused)
		}
	}
	for range options.Uploads {
		await.Receive(t, arrived, "an abort arrives")
	}
	w.Close() // it has sent all aborts then
	if len(arrived) > 0 {
		t.Errorf("%d aborts more than %d", len(arrived), options.Uploads)
	}
}

// Verify finds every possible error in a narinfo.
func TestVerifyFindsWhatDiffers(t *testing.T) {
	w := newFixture(t, quick())
	s := tree(t, "name-1", storePathOf("lib-1"), storePathOf("lib-2"))
	pushed, err := w.push(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	other := Hash{1}.String()
	for _, change := range []struct{ field, value, want string }{
		{"StorePath", storePathOf("name-2"), "StorePath"},
		{"NarHash", other, "NarHash"},
		{"NarHash", "md5:abc", "NarHash"},
		{"NarSize", "1", "NarSize"},
		{"FileHash", other, "FileHash"},
		{"FileSize", "1", "FileSize"},
		{"References", strings.TrimPrefix(storePathOf("lib-1"), StoreDir), "References"},
		{"References", " ", "References"},
		{"References", "", "References"},
		{"Sig", "default:null", "signatures"}, // that of Iglu Cache where nobody has signed
		{"Sig", "default:" + newKey(t).Sign(s.Fingerprint()), "signatures"},
		{"Sig", "default:" + w.key.Sign("something else"), "signatures"},
		{"Sig", "", "signatures"},
		{"URL", "", "URL"},
		{"NarHash", "", "NarHash"},
	} {
		w.cache.Misbehave(devcache.On("GET", narInfoGet, devcache.ReplaceField(change.field, change.value)))
		err := recorder.keep(w.Verify(t.Context(), s.Path, pushed, w.key))
		if !errors.Is(err, NotAsPushed) || !strings.Contains(err.Error(), change.want) {
			t.Errorf("%s %q: error %v, want %v that names %s", change.field, change.value, err, NotAsPushed, change.want)
		}
	}
	for name, fault := range map[string]devcache.Fault{
		"page":    devcache.Answer(200, "<html>not a narinfo"),
		"nothing": devcache.Answer(200, ""),
		"404":     devcache.Answer(404, ""),
		"twice":   devcache.Edit(func(_ http.Header, body []byte) []byte { return bytes.Repeat(body, 2) }),
	} {
		w.cache.Misbehave(devcache.On("GET", narInfoGet, fault))
		if err := recorder.keep(w.Verify(t.Context(), s.Path, pushed, w.key)); !errors.Is(err, NotAsPushed) {
			t.Errorf("%s: error %v, want %v", name, err, NotAsPushed)
		}
	}
	// Differences that Nix ignores are ignored.
	w.cache.Misbehave(devcache.On("GET", narInfoGet, devcache.Edit(func(_ http.Header, body []byte) []byte {
		return append(body, "Sig: other-1:AAAA\nWhatever: comes\n\n"...)
	})))
	if err := recorder.keep(w.Verify(t.Context(), s.Path, pushed, w.key)); err != nil {
		t.Error(err)
	}
	w.cache.Misbehave(devcache.On("GET", narInfoGet, once(devcache.Answer(500, ""))))
	if err := recorder.keep(w.Verify(t.Context(), s.Path, Pushed{}, nil)); err != nil {
		t.Error(err)
	}
}

// Fields that Nix does not need may be missing: those of the file, and the references if there are none.
func TestShortNarInfo(t *testing.T) {
	w := newFixture(t, quick())
	s := small(t)
	pushed, err := w.push(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	var faults []devcache.Fault
	for _, field := range []string{"FileHash", "FileSize", "References", "Deriver"} {
		faults = append(faults, devcache.On("GET", narInfoGet, devcache.ReplaceField(field, "")))
	}
	w.cache.Misbehave(faults...)
	if err := recorder.keep(w.Verify(t.Context(), s.Path, pushed, w.key)); err != nil {
		t.Error(err)
	}
	if has, err := w.Has(t.Context(), s.Path, w.key.Public()); err != nil || !has {
		t.Errorf("has %t, error %v", has, recorder.keep(err))
	}
}
