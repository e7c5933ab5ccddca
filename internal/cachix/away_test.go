package cachix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/test/kit/devcache"
	"iglu.sh/builder/test/kit/memnet"
)

// A bubble is a cache of one kind and a client with the default timeouts, in a bubble of testing/synctest, where
// waiting takes no real time.
type bubble struct {
	*fixture
	kind    devcache.Kind
	network memnet.Network
	kill    func() // stops the running cache
	restart sync.WaitGroup
	begun   time.Time

	mu      sync.Mutex
	notices []string // each with the second in which it came
}

const bubbleHost = "cache:80"

// inBubble runs a test in a bubble, with a cache that knows the client's key.
func inBubble(t *testing.T, kind devcache.Kind, options Options, test func(t *testing.T, b *bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{kind: kind, begun: time.Now(), fixture: &fixture{t: t, folder: t.TempDir(), key: newKey(t), url: "http://cache"}}
		b.start()
		options.Dial, options.Notice = b.network.Dial, b.notice
		b.Client = newClient(t, "http://cache/default", options)
		b.uploader.parts.size = testPart
		b.register()
		test(t, b)
		b.Close()
		b.restart.Wait()
		b.kill()
	})
}

// inEachKind runs a test in a bubble for each kind of cache.
func inEachKind(t *testing.T, test func(t *testing.T, b *bubble)) {
	for _, kind := range devcache.Kinds() {
		t.Run(kind.String(), func(t *testing.T) { inBubble(t, kind, Options{}, test) })
	}
}

// start starts the cache on its folder, with faults.
func (b *bubble) start(faults ...devcache.Fault) {
	var err error
	b.cache, err = devcache.New(devcache.Options{Folder: b.folder, Token: token, Names: []string{"default", "second"}, MinPart: testPart, Kind: b.kind})
	if err != nil {
		b.t.Error(err)
		return
	}
	b.cache.Misbehave(faults...)
	b.kill = b.network.Serve(bubbleHost, secretsOf(b.cache))
}

func (b *bubble) notice(line string) {
	recorder.keep(errors.New(line))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notices = append(b.notices, fmt.Sprintf("%.0f: %s", time.Since(b.begun).Seconds(), line))
}

// dies is a fault: the cache crashes during the request, and is back after a while.
func (b *bubble) dies(away time.Duration) devcache.Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			b.outage(away)
			panic(http.ErrAbortHandler)
		})
	}
}

func (b *bubble) outage(away time.Duration) {
	b.kill() // before the next request
	b.restart.Go(func() {
		time.Sleep(away)
		b.start()
	})
}

// wantNotices checks the notices, each with its second. In the wanted texts, … matches any text.
func (b *bubble) wantNotices(want ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.EqualFunc(b.notices, want, func(got, want string) bool {
		pattern := strings.ReplaceAll(regexp.QuoteMeta(want), "…", ".*")
		return regexp.MustCompile("^" + pattern + "$").MatchString(got)
	}) {
		b.t.Errorf("notices:\n%q\nwant:\n%q", b.notices, want)
	}
}

// counting is a fault that only counts the requests.
func counting(n *atomic.Int64) devcache.Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n.Add(1)
			next.ServeHTTP(w, r)
		})
	}
}

// partsSent returns the pattern of the addresses to which parts are sent, for a kind of cache.
func partsSent(kind devcache.Kind) string {
	if kind == devcache.Strict {
		return sentPart
	}
	return "/upload/*/*"
}

// A cache may crash at any step of a push and be back within a minute: the push then takes longer but succeeds. An
// upload that the cache has lost is begun again. The first retry is reported immediately.
func TestAway(t *testing.T) {
	for _, away := range []time.Duration{4 * time.Second, 30 * time.Second, 55 * time.Second, time.Minute} {
		for _, step := range []struct{ name, method, path string }{
			{"begin", "POST", aboutBegin}, {"part URL", "POST", aboutPart}, {"part", "PUT", ""}, {"complete", "POST", aboutEnd},
			{"narinfo", "GET", narInfoGet}, {"NAR", "GET", "/default/nar/*"},
		} {
			t.Run(fmt.Sprint(step.name, " ", away), func(t *testing.T) {
				inEachKind(t, func(t *testing.T, b *bubble) { testAway(b, away, step.method, step.path) })
			})
		}
	}
}

func testAway(b *bubble, away time.Duration, method, path string) {
	t := b.t
	if path == "" {
		path = partsSent(b.kind)
	}
	b.cache.Misbehave(devcache.On(method, path, once(b.dies(away))))
	s := large(t)
	pushed, err := b.push(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := recorder.keep(b.Verify(t.Context(), s.Path, pushed, b.key)); err != nil {
		t.Error(err)
	}
	if took := time.Since(b.begun); took < away || took > away+maxPause {
		t.Errorf("took %s, with a cache that was away for %s", took, away)
	}
	if len(b.notices) < 2 || !strings.HasPrefix(b.notices[0], "0: ") || !strings.HasSuffix(b.notices[0], "; trying again for up to 1m30s") ||
		!slices.ContainsFunc(b.notices, func(line string) bool { return strings.Contains(line, ": cache answers again, after ") }) {
		t.Errorf("notices: %q", b.notices)
	}
	if path == aboutEnd && !slices.ContainsFunc(b.notices, isLostNotice) {
		t.Errorf("not said that it was lost: %q", b.notices)
	}
}

func isLostNotice(line string) bool {
	return strings.HasSuffix(line, ": the cache has lost a part of large-1.0: the upload begins again")
}

// A cache that crashes during an upload has lost the parts that it had.
func TestAwayBetweenParts(t *testing.T) {
	inEachKind(t, func(t *testing.T, b *bubble) {
		var came, done atomic.Int64
		both := make(chan struct{})
		b.cache.Misbehave(devcache.On("PUT", partsSent(b.kind), func(next http.Handler) http.Handler {
			dies := b.dies(55 * time.Second)(next)
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch came.Add(1) {
				case 1, 2:
					next.ServeHTTP(w, r)
					if done.Add(1) == 2 {
						close(both)
					}
				default:
					<-both
					dies.ServeHTTP(w, r)
				}
			})
		}))
		s := large(t)
		pushed, err := b.push(t.Context(), s)
		if err == nil {
			err = recorder.keep(b.Verify(t.Context(), s.Path, pushed, b.key))
		}
		if err != nil {
			t.Error(err)
		}
		if !slices.ContainsFunc(b.notices, isLostNotice) {
			t.Errorf("not said that it was lost: %q", b.notices)
		}
		if took := time.Since(b.begun); took < 55*time.Second || took > time.Minute {
			t.Errorf("took %s", took)
		}
	})
}

// The client gives up a cache that does not come back after 90 s. Later calls fail immediately, until Renew allows
// another 90 s.
func TestAwayForGood(t *testing.T) {
	inEachKind(t, func(t *testing.T, b *bubble) {
		b.kill()
		for i, want := range []time.Duration{90 * time.Second, 0, 90 * time.Second, 0} {
			if i == 2 {
				b.Renew()
			}
			start := time.Now()
			_, err := b.push(t.Context(), small(t))
			if !errors.Is(err, Unreachable) || !StayedAway(err) {
				t.Errorf("error %v, want %v", err, Unreachable)
			}
			if took := time.Since(start); took != want {
				t.Errorf("given up after %s, want %s", took, want)
			}
		}
		b.wantNotices("0: start the upload of small-1.0 to http://cache/default: the cache cannot be reached: …; trying again for up to 1m30s")
	})
}

// A host name that does not exist is a permanent error, unless the host has answered before.
func TestNameThatIsGone(t *testing.T) {
	inBubble(t, devcache.Strict, Options{}, func(t *testing.T, b *bubble) {
		other := newClient(t, "http://no-such-host/default", Options{Dial: b.network.Dial, Notice: b.notice})
		if _, err := other.Cache(t.Context()); !errors.Is(recorder.keep(err), Unreachable) || StayedAway(err) {
			t.Errorf("error %v, want %v", err, Unreachable)
		}
		if took := time.Since(b.begun); took != 0 {
			t.Errorf("took %s", took)
		}
		b.wantNotices()

		b.kill()
		b.network.Forget(bubbleHost)
		b.restart.Go(func() {
			time.Sleep(30 * time.Second)
			b.start()
		})
		if _, err := b.push(t.Context(), small(t)); err != nil {
			t.Error(err)
		}
		b.wantNotices("0: start the upload of small-1.0 to …no such host; trying again for up to 1m30s", "3…: cache answers again, after 3…s")
	})
}

// until is a fault that ends after a while.
func until(end time.Duration, fault devcache.Fault) devcache.Fault {
	begun := time.Now()
	return func(next http.Handler) http.Handler {
		faulty := fault(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if time.Since(begun) < end {
				faulty.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// While a cache restarts, a proxy in front of it answers. A cache without its database gives such answers, too. Here
// every request gets them for a minute.
func TestAwayWithAnAnswer(t *testing.T) {
	for name, fault := range map[string]devcache.Fault{
		"502":             devcache.Answer(502, ""),
		"503":             devcache.Answer(503, ""),
		"503, much later": devcache.Answer(503, "", "Retry-After", "3600"),
		"504":             devcache.Answer(504, ""),
		"Cloudflare":      devcache.Answer(521, "error code: 521"),
		"Cloudflare, 520": devcache.Answer(520, "error code: 520"),
		"no tunnel":       devcache.Answer(530, "error code: 1033"),
		"404":             devcache.Answer(404, "404 page not found"),
		"breaks off":      devcache.BreakOff(0),
	} {
		t.Run(name, func(t *testing.T) {
			inEachKind(t, func(t *testing.T, b *bubble) {
				b.cache.Misbehave(until(time.Minute, fault))
				if _, err := b.push(t.Context(), small(t)); err != nil {
					t.Error(err)
				}
				if took := time.Since(b.begun); took < time.Minute || took > 90*time.Second {
					t.Errorf("took %s", took)
				}
				b.mu.Lock()
				defer b.mu.Unlock()
				if len(b.notices) != 2 {
					t.Errorf("notices: %q", b.notices)
				}
			})
		})
	}
}

// The client also gives up a cache that keeps giving such an answer.
func TestAwayWithAnAnswerForGood(t *testing.T) {
	for status, want := range map[int]error{502: Failing, 503: Failing, 504: Failing, 404: Failing} {
		inBubble(t, devcache.Standalone, Options{}, func(t *testing.T, b *bubble) {
			b.cache.Misbehave(devcache.Answer(status, ""))
			for _, call := range []func() error{
				func() error { _, err := b.push(t.Context(), small(t)); return err },
				func() error { _, err := b.Client.Cache(t.Context()); return recorder.keep(err) },
				func() error { _, err := b.Missing(t.Context(), []string{small(t).Hash()}); return recorder.keep(err) },
			} {
				if err := call(); !errors.Is(err, want) || !StayedAway(err) {
					t.Errorf("%d: error %v, want %v", status, err, want)
				}
			}
			if took := time.Since(b.begun); took != 90*time.Second {
				t.Errorf("%d: given up after %s", status, took)
			}
		})
	}
}

// When Iglu Cache loses its database, it answers that it does not know the cache, and then crashes.
func TestDatabaseGone(t *testing.T) {
	inEachKind(t, func(t *testing.T, b *bubble) {
		b.cache.Misbehave(devcache.DatabaseGone(3, func() { b.outage(20 * time.Second) }))
		s := large(t)
		pushed, err := b.push(t.Context(), s)
		if err == nil {
			err = recorder.keep(b.Verify(t.Context(), s.Path, pushed, b.key))
		}
		if err != nil {
			t.Error(err)
		}
		b.wantNotices("0: start the upload of large-1.0 to http://cache/default: the cache fails (HTTP 404): …Cache Not Found…; trying again for up to 1m30s",
			"2…: cache answers again, after 2…s")
	})
}

// A 404 is not an outage if the cache still returns its own description.
func TestNotThereIsNotAway(t *testing.T) {
	inEachKind(t, func(t *testing.T, b *bubble) {
		b.cache.Misbehave(devcache.On("POST", aboutBegin, devcache.Answer(404, "")))
		_, err := b.push(t.Context(), small(t))
		if want := "start the upload of small-1.0 to http://cache/default: the cache refuses it (HTTP 404)"; err == nil || err.Error() != want {
			t.Errorf("error %v, want %v", err, want)
		}
		if took := time.Since(b.begun); took != 0 {
			t.Errorf("took %s", took)
		}
		b.wantNotices()
	})
}

// A call that fails while the cache answers other calls is made five times, within seven seconds at most (the
// backoff is random). Only the first retry is reported at first.
func TestFiveAttempts(t *testing.T) {
	for name, test := range map[string]struct {
		fault devcache.Fault
		want  error
	}{
		"500":        {devcache.Answer(500, "oh"), Failing},
		"501":        {devcache.Answer(501, "oh"), Failing},
		"breaks off": {devcache.BreakOff(10), Unreachable},
		"503":        {devcache.Answer(503, ""), Failing},
	} {
		t.Run(name, func(t *testing.T) {
			inEachKind(t, func(t *testing.T, b *bubble) {
				var n atomic.Int64
				b.cache.Misbehave(devcache.On("PUT", partsSent(b.kind), test.fault), devcache.On("PUT", partsSent(b.kind), counting(&n)))
				if _, err := b.push(t.Context(), small(t)); !errors.Is(err, test.want) || StayedAway(err) {
					t.Errorf("error %v, want %v", err, test.want)
				}
				if n.Load() != 5 {
					t.Errorf("%d attempts, want 5", n.Load())
				}
				if took := time.Since(b.begun); took < 3750*time.Millisecond || took > 7500*time.Millisecond {
					t.Errorf("took %s", took)
				}
				b.mu.Lock()
				defer b.mu.Unlock()
				if len(b.notices) == 0 || !strings.HasPrefix(b.notices[0], "0: send part 1 of small-1.0 to http://cache/default: ") ||
					!strings.Contains(b.notices[0], "; trying again") {
					t.Errorf("notices: %q", b.notices)
				}
				if strings.HasPrefix(name, "50") && name != "503" && len(b.notices) != 1 {
					t.Errorf("notices: %q", b.notices)
				}
			})
		})
	}
}

// A cache that allows a number of calls per minute may answer 429 without Retry-After, as nginx does. The client comes
// back for as long as it does to a cache that is down.
func TestBusy(t *testing.T) {
	for name, test := range map[string]struct {
		busy  time.Duration
		want  error
		least time.Duration
	}{
		"for a minute": {time.Minute, nil, time.Minute},
		"for good":     {time.Hour, Busy, 90 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inEachKind(t, func(t *testing.T, b *bubble) {
				b.cache.Misbehave(devcache.On("PUT", partsSent(b.kind), until(test.busy, devcache.Answer(429, ""))))
				if _, err := b.push(t.Context(), small(t)); !errors.Is(err, test.want) {
					t.Errorf("error %v, want %v", err, test.want)
				}
				if took := time.Since(b.begun); took < test.least || took > test.least+maxPause {
					t.Errorf("took %s", took)
				}
			})
		})
	}
}

// The client waits as long as Retry-After says. It reports a retry again after ten seconds.
func TestRetryAfter(t *testing.T) {
	inBubble(t, devcache.Strict, Options{}, func(t *testing.T, b *bubble) {
		b.cache.Misbehave(devcache.On("POST", aboutBegin, devcache.Times(3, devcache.Answer(429, "", "Retry-After", "9"))))
		if _, err := b.push(t.Context(), small(t)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(b.begun); took != 27*time.Second {
			t.Errorf("came back after %v, want 27s", took)
		}
		const line = ": start the upload of small-1.0 to http://cache/default: the cache asks to come back later (HTTP 429); trying again"
		b.wantNotices("0"+line, "18"+line)
	})
}

// A lost upload is begun again once. If it is lost again, the push fails.
func TestLostUpload(t *testing.T) {
	for name, fault := range map[string]devcache.Fault{
		"Iglu Cache": devcache.Answer(400, `{"error":"Part file does not exist"}`),
		"404":        devcache.Answer(404, "no such upload"),
		"410":        devcache.Answer(410, "This Upload ID is no longer valid (timed out)"),
	} {
		for times, want := range map[int64]error{1: nil, 2: Refused} {
			t.Run(fmt.Sprint(name, " ", times), func(t *testing.T) {
				inEachKind(t, func(t *testing.T, b *bubble) {
					var begun, read atomic.Int64
					b.cache.Misbehave(devcache.On("POST", aboutEnd, devcache.Times(times, fault)), devcache.On("POST", aboutBegin, counting(&begun)))
					s := large(t)
					nar := s.nar
					s.nar = func(w io.Writer) error { read.Add(1); return nar(w) }
					if _, err := b.push(t.Context(), s); !errors.Is(err, want) {
						t.Errorf("error %v, want %v", err, want)
					}
					if begun.Load() != 2 || read.Load() != 2 {
						t.Errorf("%d uploads begun and %d archives read, want 2", begun.Load(), read.Load())
					}
					b.wantNotices("0: the cache has lost a part of large-1.0: the upload begins again")
				})
			})
		}
	}
}

// slowly is a fault: the cache takes a while for each request.
func slowly(took time.Duration) devcache.Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(took)
			next.ServeHTTP(w, r)
		})
	}
}

// joining is a fault for the completion of an upload: the cache takes a while, a proxy before it waits for only a minute,
// and the cache has already moved the parts when it is asked again.
func (b *bubble) joining(took time.Duration, status int) devcache.Fault {
	return func(next http.Handler) http.Handler {
		var asked atomic.Bool
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if asked.Swap(true) {
				http.Error(w, `{"error":"Part file does not exist"}`, http.StatusBadRequest)
				return
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				b.t.Error(err)
			}
			kept := r.Clone(context.WithoutCancel(r.Context()))
			kept.Body = io.NopCloser(bytes.NewReader(body))
			b.restart.Go(func() {
				time.Sleep(took)
				next.ServeHTTP(httptest.NewRecorder(), kept)
			})
			time.Sleep(time.Minute)
			w.WriteHeader(status)
		})
	}
}

// A cache needs minutes to put a large archive together. The archive is uploaded once, and the upload completed, with and
// without a proxy that does not wait for so long.
func TestSlowCompletion(t *testing.T) {
	const took = 100 * time.Second
	for name, fault := range map[string]func(b *bubble) devcache.Fault{
		"slow":        func(*bubble) devcache.Fault { return slowly(took) },
		"nginx":       func(b *bubble) devcache.Fault { return b.joining(took, 504) },
		"Cloudflare":  func(b *bubble) devcache.Fault { return b.joining(took, 524) },
		"not so slow": func(*bubble) devcache.Fault { return slowly(20 * time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			inEachKind(t, func(t *testing.T, b *bubble) {
				b.uploader.joinRate = 1000
				var begun atomic.Int64
				b.cache.Misbehave(devcache.On("POST", aboutEnd, fault(b)), devcache.On("POST", aboutBegin, counting(&begun)))
				s := large(t) // for which it may take 143 s
				if _, err := b.push(t.Context(), s); err != nil || begun.Load() != 1 {
					t.Errorf("error %v, after %d uploads", err, begun.Load())
				}
				if waited := time.Since(b.begun); waited > took+maxPause {
					t.Errorf("took %v", waited)
				}
			})
		})
	}
}

// A cache that has not put the archive together after the time that it may take is not waited for any more.
func TestCompletionThatNeverEnds(t *testing.T) {
	for name, want := range map[string]error{"proxy": Refused, "cache": TimedOut} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, devcache.Standalone, Options{}, func(t *testing.T, b *bubble) {
				b.uploader.joinRate = 1000
				fault := devcache.Hang()
				if name == "proxy" {
					fault = b.joining(time.Hour, 504)
				}
				b.cache.Misbehave(devcache.On("POST", aboutEnd, fault))
				if _, err := b.push(t.Context(), large(t)); !errors.Is(err, want) {
					t.Errorf("error %v, want %v", err, want)
				}
				if took := time.Since(b.begun); took > 5*time.Minute { // 143 s and RetryFor
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// A part that is refused for another reason is not sent again.
func TestRefusedIsNotLost(t *testing.T) {
	inEachKind(t, func(t *testing.T, b *bubble) {
		var begun atomic.Int64
		b.cache.Misbehave(devcache.On("POST", aboutEnd, devcache.Answer(400, "not that one")), devcache.On("POST", aboutBegin, counting(&begun)))
		if _, err := b.push(t.Context(), small(t)); !errors.Is(err, Refused) || begun.Load() != 1 {
			t.Errorf("error %v, want %v; %d uploads begun, want 1", err, Refused, begun.Load())
		}
	})
}

// A completion that is refused is not waited for, however long the cache may take to put the archive together.
func TestRefusedIsNotLate(t *testing.T) {
	for _, status := range []int{400, 500} {
		inBubble(t, devcache.Strict, Options{Attempts: 1}, func(t *testing.T, b *bubble) {
			b.uploader.joinRate = 1
			b.cache.Misbehave(devcache.On("POST", aboutEnd, devcache.Answer(status, "not that one")))
			if _, err := b.push(t.Context(), small(t)); err == nil {
				t.Errorf("%d: it is pushed", status)
			}
			if took := time.Since(b.begun); took != 0 {
				t.Errorf("%d: took %s", status, took)
			}
		})
	}
}

// A silentConn is a connection that a router has forgotten: what is written to it does not arrive, without an error.
type silentConn struct {
	net.Conn
	silent *atomic.Bool
}

func (c silentConn) Write(b []byte) (int, error) {
	if c.silent.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// A router restarts, and has forgotten all connections of HTTP/1.1. The first call waits for its time limit, and the others
// do not repeat that on each connection.
func TestForgottenConnections(t *testing.T) {
	var forgotten atomic.Bool
	inBubble(t, devcache.Strict, Options{}, func(t *testing.T, b *bubble) {
		b.transport.http.CloseIdleConnections()
		b.transport.http.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := b.network.Dial(ctx, network, address)
			if err == nil && !forgotten.Load() {
				conn = silentConn{conn, &forgotten}
			}
			return conn, err
		}
		var pushes sync.WaitGroup
		for i := range b.Uploads() {
			pushes.Go(func() {
				if _, err := b.push(t.Context(), describe(t, fmt.Sprint("path-", i), file(uint64(i), 1000))); err != nil {
					t.Error(err)
				}
			})
		}
		pushes.Wait()
		forgotten.Store(true)
		b.begun = time.Now()
		if _, err := b.push(t.Context(), small(t)); err != nil {
			t.Error(err)
		}
		if took := time.Since(b.begun); took > 35*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// All calls to a host share a connection of HTTP/2. If it is silent, the client notices within a minute, and uses
// another one: it does not wait for the time limit of a part.
func TestSilentConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{begun: time.Now(), fixture: &fixture{t: t, folder: t.TempDir(), key: newKey(t), url: "http://cache"}}
		b.start()
		var first atomic.Bool // whether the first connection is silent
		var dialled atomic.Bool
		b.Client = newClient(t, "http://cache/default", Options{Notice: b.notice,
			Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := b.network.Dial(ctx, network, address)
				if err == nil && !dialled.Swap(true) {
					conn = silentConn{conn, &first}
				}
				return conn, err
			}})
		protocols := new(http.Protocols)
		protocols.SetUnencryptedHTTP2(true)
		b.transport.http.Transport.(*http.Transport).Protocols = protocols
		b.uploader.parts.size = testPart
		b.register()
		b.cache.Misbehave(devcache.On("PUT", sentPart, once(devcache.Tell(func() { first.Store(true) }, devcache.Hang()))))
		if _, err := b.push(t.Context(), large(t)); err != nil {
			t.Error(err)
		}
		if took := time.Since(b.begun); took > time.Minute {
			t.Errorf("took %s", took)
		}
		b.Close()
		b.kill()
	})
}

// An abort that is not answered delays neither the next push nor the end.
func TestAbortWithoutAnswer(t *testing.T) {
	inEachKind(t, func(t *testing.T, b *bubble) {
		var aborted atomic.Int64
		b.cache.Misbehave(devcache.On("PUT", partsSent(b.kind), devcache.Answer(413, "")),
			devcache.On("POST", aboutAbort, devcache.Hang()), devcache.On("POST", aboutAbort, counting(&aborted)))
		for range 20 {
			if _, err := b.push(t.Context(), small(t)); !errors.Is(err, Refused) {
				t.Errorf("error %v, want %v", err, Refused)
			}
		}
		synctest.Wait() // the cache has read what was sent: Close may cut off the connection before that
		b.Close()
		if took := time.Since(b.begun); took != 0 {
			t.Errorf("the end came after %s", took)
		}
		if n := aborted.Load(); n != 8 {
			t.Errorf("%d aborts, want one for each upload that there can be at once, 8", n)
		}
	})
}

// An abort that cannot even be sent delays the end by half a second.
func TestAbortThatIsNotSent(t *testing.T) {
	inBubble(t, devcache.Strict, Options{}, func(t *testing.T, b *bubble) {
		b.transport.http.CloseIdleConnections()
		b.kill()
		defer b.start()
		b.network.Stall(bubbleHost)
		b.uploader.aborter.takeBack(&upload{by: b.uploader, narID: "some"})
		start := time.Now()
		b.Close()
		if took := time.Since(start); took != 500*time.Millisecond {
			t.Errorf("the end came after %s, want 500ms", took)
		}
	})
}
