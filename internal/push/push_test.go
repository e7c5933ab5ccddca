package push

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/cachix"
	"iglu.sh/builder/internal/nixstore"
	"iglu.sh/builder/test/kit/devcache"
)

// A job's closure is uploaded once, to each kind of cache. The next job finds it in the cache.
func TestPushTwice(t *testing.T) {
	inEachKind(t, func(t *testing.T, f *fixture) {
		last := f.store.chain(60)
		if unpushed := f.run(last); unpushed != "" {
			t.Error(unpushed)
		}
		f.wantTotal(60, 0, 0)
		f.wantPaths(60)
		begun := f.count("POST", beginCall)
		if unpushed := f.run(last); unpushed != "" {
			t.Error(unpushed)
		}
		f.wantTotal(0, 60, 0)
		if begun.Load() != 0 {
			t.Errorf("%d uploads were begun again", begun.Load())
		}
		f.took(0, 0)
	})
}

// The cache is asked for single paths only until it is known that its answers to lists of hashes are right.
// After that there is no additional call for each path.
func TestListThatWorks(t *testing.T) {
	for _, kind := range []devcache.Kind{devcache.Strict, devcache.Standalone} {
		inBubble(t, kind, func(t *testing.T, f *fixture) {
			var paths []string
			for i := range 200 {
				paths = append(paths, f.store.add(fmt.Sprint("path-", i)))
			}
			shown := f.count("GET", narInfoCall)
			f.run(paths...)
			f.wantTotal(200, 0, 0)
			if n := shown.Load(); n <= 200 || n > 200+8 {
				t.Errorf("%s: %d narinfos were asked for, want one to read each path back, and one for each upload that there can be at once: 201 to 208", kind, n)
			}
			shown = f.count("GET", narInfoCall)
			more := f.store.add("more")
			f.run(append(paths, more)...)
			f.wantTotal(1, 200, 0)
			if n := shown.Load(); n != 1 {
				t.Errorf("%s: %d narinfos were asked for by a job whose list leaves paths out, want 1", kind, n)
			}
		})
	}
}

// If the answers to lists are wrong, the cache is asked for each path before the upload, and the paths that
// it has are not uploaded.
func TestListThatIsUseless(t *testing.T) {
	inBubble(t, devcache.Monorepo, func(t *testing.T, f *fixture) {
		f.run(f.store.chain(10))
		f.wantTotal(10, 0, 0)
		last := f.store.add("new", f.store.chain(10))
		lists := f.count("POST", listCall)
		f.run(last)
		f.wantTotal(1, 10, 0)
		if lists.Load() != 1 { // the first path that is there tells
			t.Errorf("%d lists were asked for, want 1", lists.Load())
		}
		// Of a job all of whose paths are new, the first that is pushed tells.
		lists = f.count("POST", listCall)
		f.run(f.store.add("alone"))
		f.wantTotal(1, 0, 0)
		if lists.Load() != 2 {
			t.Errorf("%d lists were asked for, want 2", lists.Load())
		}
	})
}

// A path in the cache without a signature, or with one by a key that the cache does not have, is uploaded
// again.
func TestNotRight(t *testing.T) {
	inBubble(t, devcache.Monorepo, func(t *testing.T, f *fixture) {
		path := f.store.add("path")
		signing := f.options.SigningKey
		f.options.SigningKey = ""
		f.run(path)
		f.wantTotal(1, 0, 0)
		f.wantLine("0: warning: no signing key is given: …")
		f.run(path) // nobody asks for a signature, as there is no key
		f.wantTotal(0, 1, 0)
		f.options.SigningKey = signing
		if unpushed := f.run(path); !strings.Contains(unpushed, "none of its 1 signatures is the one that was pushed") { // of two rows, it shows the first
			t.Errorf("unpushed: %q", unpushed)
		}
	})
}

// A path that another of the cache's keys has signed is not uploaded again.
func TestAnotherKeyOfTheCache(t *testing.T) {
	inBubble(t, devcache.Monorepo, func(t *testing.T, f *fixture) {
		path := f.store.add("path")
		f.run(path)
		other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, 32))
		if err := f.cache.AddKey("default", base64.StdEncoding.EncodeToString(other[32:])); err != nil {
			t.Fatal(err)
		}
		f.options.SigningKey = base64.StdEncoding.EncodeToString(other)
		f.run(path)
		f.wantTotal(0, 1, 0)
	})
}

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
		"another signing key": {func(f *fixture) { f.options.SigningKey = other }, "the signing key is none of the cache's, so Nix would not accept what it signs; " +
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
		f.wantLine("0: what this job yields goes to http://cache/default")
		f.wantLine("0: warning: the cache does not publish its public keys: if " + f.public() + " is not trusted by its users, Nix will not accept what is pushed")
		f.wantLine("0: warning: the cache cannot be read from here: what is pushed will not be checked")
		f.wantTotal(1, 0, 0)
		f.wantPaths(1)
	})
}

// The cache is down for less than a minute: before the build, during it, and after it.
func TestCacheAway(t *testing.T) {
	for _, away := range []time.Duration{4 * time.Second, 30 * time.Second, 55 * time.Second, time.Minute} {
		t.Run(away.String(), func(t *testing.T) {
			t.Run("before", func(t *testing.T) {
				inEachKind(t, func(t *testing.T, f *fixture) {
					f.outage(away)
					if unpushed := f.run(f.store.chain(20)); unpushed != "" {
						t.Error(unpushed)
					}
					f.wantSurvived(away, 20)
				})
			})
			t.Run("during", func(t *testing.T) {
				inEachKind(t, func(t *testing.T, f *fixture) {
					j := f.watch()
					first := f.store.add("first")
					time.Sleep(2 * time.Second) // for the first to be pushed
					f.outage(away)
					second := f.store.add("second", first)
					time.Sleep(2 * time.Minute)
					f.wantPaths(2)
					f.store.add("third", second)
					if unpushed := j.finish(); unpushed != "" {
						t.Error(unpushed)
					}
					f.wantTotal(3, 0, 0)
					f.wantPaths(3)
					if f.lines("; trying again for up to 1m30s") != 1 || f.lines(": cache answers again, after ") != 1 {
						t.Errorf("log: %q", f.log)
					}
				})
			})
			t.Run("after", func(t *testing.T) {
				inEachKind(t, func(t *testing.T, f *fixture) {
					j := f.watch()
					last := f.store.chain(20)
					f.outage(away)
					if unpushed := j.finish(last); unpushed != "" {
						t.Error(unpushed)
					}
					f.wantSurvived(away, 20)
				})
			})
			t.Run("amid", func(t *testing.T) {
				inEachKind(t, func(t *testing.T, f *fixture) {
					f.cache.Misbehave(devcache.On("POST", completeCall, devcache.Times(1, func(http.Handler) http.Handler {
						return http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
							f.restart.Go(func() { f.outage(away) })
							panic(http.ErrAbortHandler)
						})
					})))
					if unpushed := f.run(f.store.chain(20)); unpushed != "" {
						t.Error(unpushed)
					}
					f.wantSurvived(away, 20)
				})
			})
		})
	}
}

func (f *fixture) wantSurvived(away time.Duration, n int) {
	f.t.Helper()
	f.wantTotal(n, 0, 0)
	f.wantPaths(n)
	f.took(away, away+10*time.Second)
	if f.lines("0: ") == 0 || f.lines("; trying again for up to 1m30s") != 1 || f.lines(": cache answers again, after ") != 1 {
		f.t.Errorf("log: %q", f.log)
	}
}

// If the cache remains down, the job ends 90 s after its build's end, whenever the outage began.
func TestAwayForGood(t *testing.T) {
	for _, before := range []time.Duration{0, time.Second, 50 * time.Second, time.Minute, 100 * time.Second, time.Hour} {
		t.Run(before.String(), func(t *testing.T) {
			inEachKind(t, func(t *testing.T, f *fixture) {
				j := f.watch()
				last := f.store.chain(3)
				f.kill()
				time.Sleep(before)
				f.begin(time.Now())
				unpushed := j.finish(last)
				f.took(90*time.Second, 90*time.Second)
				if !strings.Contains(unpushed, "could not be pushed: ") || !strings.Contains(unpushed, "the cache cannot be reached") {
					t.Errorf("unpushed: %q", unpushed)
				}
				f.wantLine("…: push: NOT COMPLETE: …")
				if n := f.lines("cannot push for now: "); n > 1 {
					t.Errorf("said %d times: %q", n, f.log)
				}
			})
		})
	}
}

// The cache is down for longer than calls are repeated, but is up again before the build ends: everything is
// uploaded, at the latest at the end.
func TestBackAfterLong(t *testing.T) {
	inEachKind(t, func(t *testing.T, f *fixture) {
		j := f.watch()
		f.store.chain(5)
		f.outage(10 * time.Minute)
		time.Sleep(20 * time.Minute)
		if unpushed := j.finish(); unpushed != "" {
			t.Error(unpushed)
		}
		f.wantTotal(5, 0, 0)
		f.wantPaths(5)
	})
}

// Aborts that the cache does not answer do not delay the end.
func TestAbortsDoNotDelay(t *testing.T) {
	inEachKind(t, func(t *testing.T, f *fixture) {
		f.cache.Misbehave(devcache.On("POST", completeCall, devcache.Answer(400, "no")), devcache.On("POST", "/api/v1/cache/*/multipart-nar/*/abort", devcache.Hang()))
		unpushed := f.run(f.store.add("a"), f.store.add("b"))
		if !strings.HasPrefix(unpushed, "2 of 2 paths could not be pushed: a: complete the upload of a to http://cache/default: the cache refuses it (HTTP 400): no; b: ") {
			t.Errorf("unpushed: %q", unpushed)
		}
		f.took(0, 0)
	})
}

// After three failed paths in a row, no more uploads are tried.
func TestThreeFailures(t *testing.T) {
	inEachKind(t, func(t *testing.T, f *fixture) {
		f.options.Uploads = 1
		begun := f.count("POST", beginCall, devcache.On("POST", completeCall, devcache.Answer(400, "no")))
		var results []string
		for i := range 10 {
			results = append(results, f.store.add(fmt.Sprint("path-", i)))
		}
		unpushed := f.run(results...)
		if !strings.HasPrefix(unpushed, "10 of 10 paths could not be pushed: path-") {
			t.Errorf("unpushed: %q", unpushed)
		}
		if begun.Load() != 3 || f.lines("could not push path-") != 3 || f.lines("the cache fails again and again: no more is pushed for now") != 1 {
			t.Errorf("%d uploads were begun, want 3; log: %q", begun.Load(), f.log)
		}
	})
}

// Paths that an upstream has signed are not pushed.
func TestLeftOut(t *testing.T) {
	inEachKind(t, func(t *testing.T, f *fixture) {
		upstream := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{5}, 32))
		libc := f.store.add("libc")
		described := describe(f.store.infos[libc])
		signed := f.store.infos[libc]
		signed.Signatures = []string{"upstream-1:" + base64.StdEncoding.EncodeToString(ed25519.Sign(upstream, []byte(described.Fingerprint())))}
		f.store.infos[libc] = signed
		top := f.store.add("top", libc)
		f.options.Upstream = []string{"upstream-1:" + base64.StdEncoding.EncodeToString(upstream[32:])}
		var last, most int
		f.options.Progress = func(done, expected int, bytes int64) {
			last, most = done, max(most, expected)
			if (done == 1) != (bytes > 0) {
				t.Errorf("%d bytes of %d paths", bytes, done)
			}
		}
		f.run(top, "/nix/store/"+strings.Repeat("0", 32)+"-no-such-path")
		f.wantTotal(1, 0, 1)
		if n := f.lines("warning"); n > 0 {
			t.Errorf("%d warnings about a job that is as it should be", n)
		}
		f.wantPaths(1)
		if last != 1 || most != 1 {
			t.Errorf("%d of %d paths", last, most)
		}
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
				if said := f.lines("Nix cannot read it: nothing is taken from it"); (said > 0) != (private && !readable) {
					t.Errorf("%s, private %t: the log is %q", kind, private, f.log)
				}
			})
		}
	}
}

// A path that the command printed and that does not exist is left out. All others are pushed.
func TestNoSuchPath(t *testing.T) {
	inBubble(t, devcache.Strict, func(t *testing.T, f *fixture) {
		none := "/nix/store/" + strings.Repeat("0", 32) + "-no-such-path"
		first, last := f.store.add("first"), f.store.add("last")
		if unpushed := f.watch().finishAll(Command{Printed: []string{none, first, none, last, none}}); unpushed != "" {
			t.Error(unpushed)
		}
		f.wantNames("first", "last")
	})
}

// A headline has the main point first, then the cache, the status and what is known about the cause.
func TestHeadline(t *testing.T) {
	refused := errors.New("connection refused")
	const at = "https://cache.example.com/default"
	for want, err := range map[string]error{
		"the cache does not accept the API key (" + at + ": HTTP 403: Forbidden)": &cachix.Error{Kind: cachix.KeyRefused, Cache: at, Status: 403, Detail: "Forbidden"},
		"the cache fails (" + at + ": HTTP 502)":                                  &cachix.Error{Kind: cachix.Failing, Cache: at, Status: 502},
		"the cache cannot be reached (" + at + ": connection refused)":            &cachix.Error{Kind: cachix.Unreachable, Cache: at, Cause: refused},
		"the cache refuses it (" + at + ": HTTP 400: too large)":                  &cachix.Error{Kind: cachix.Refused, Cache: at, Status: 400, Detail: "too large", Cause: refused},
		"that is no answer of a cachix-compatible cache (" + at + ")":             &cachix.Error{Kind: cachix.NotCachix, Cache: at},
		"connection refused": refused,
	} {
		if got := headline(err); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// The outputs of the derivations that a command used, and of the derivations that these need, are pushed, and
// so are the paths that it used. Paths that were only added to the store are pushed only if the command
// prints them. A path that refers to a derivation is pushed with that.
func TestUsed(t *testing.T) {
	inBubble(t, devcache.Strict, func(t *testing.T, f *fixture) {
		drv := f.store.add("top.drv")
		f.store.outputs[drv] = nixstore.Outputs{Paths: []string{f.store.add("top"), f.store.add("needed", f.store.add("input.drv", f.store.add("input-source")))}}
		printed := f.store.add("printed.drv")
		f.store.outputs[printed] = nixstore.Outputs{Paths: []string{f.store.add("of-printed")}}
		source, copied := f.store.add("source"), f.store.add("copied")
		f.store.change(source, func(info *nixstore.Info) { info.BuiltHere, info.ContentAddress = false, "fixed:r:sha256:0" })
		f.store.change(copied, func(info *nixstore.Info) { info.BuiltHere = false })
		none := "/nix/store/" + strings.Repeat("0", 32) + "-no-such-path"

		j := f.watch()
		if unpushed := j.finishAll(Command{Used: []string{drv, source, copied, none}, Printed: []string{printed, none}}); unpushed != "" {
			t.Error(unpushed)
		}
		f.wantNames("copied", "input-source", "input.drv", "needed", "of-printed", "top")

		f.run(source)
		f.wantLine("…: push: this command yielded nothing to push…")
		j = f.watch()
		j.finishAll(Command{Printed: []string{source}})
		f.wantNames("copied", "input-source", "input.drv", "needed", "of-printed", "source", "top")
	})
}

// For content-addressed derivations, a line says what the cache cannot report.
func TestFloating(t *testing.T) {
	inBubble(t, devcache.Strict, func(t *testing.T, f *fixture) {
		drv, path := f.store.add("floating.drv"), f.store.add("floating")
		f.store.outputs[drv] = nixstore.Outputs{Paths: []string{path}, Floating: []string{path}}
		f.run(drv)
		f.wantTotal(1, 0, 0)
		f.wantLine("…: warning: 1 path of content-addressed derivations: …")
		if n := f.lines("nothing to push"); n > 0 {
			t.Error("something was pushed")
		}
	})
}

// If the store fails when it is asked for the paths of a command, the push is incomplete.
func TestStoreBreaks(t *testing.T) {
	inBubble(t, devcache.Strict, func(t *testing.T, f *fixture) {
		path := f.store.add("path")
		j := f.watch()
		f.store.broken = errors.New("the daemon has gone")
		if unpushed := j.finish(path); !strings.Contains(unpushed, "the daemon has gone") {
			t.Errorf("got %q", unpushed)
		}
		if n := f.lines("nothing to push"); n > 0 {
			t.Error("who knows")
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

// TestMemory compares Memory with docs/pushing.md: (uploads + 4) × (part size + 2.1 MiB) + 80 MiB with four CPUs.
func TestMemory(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	const mib = 1 << 20
	for _, test := range []struct {
		options         Options
		uploads, partMB float64
	}{
		{Options{}, 8, 8},
		{Options{Uploads: 1}, 1, 8},
		{Options{Uploads: 8, PartSize: 5 * mib}, 8, 5},
		{Options{Uploads: 64, PartSize: 64 * mib}, 64, 64},
	} {
		documented := (test.uploads+4)*(test.partMB+2.1) + 80
		if got := float64(test.options.Memory()) / mib; got > documented || got < documented-0.04*(test.uploads+4) {
			t.Errorf("%+v: %.2f MiB, want %.2f", test.options, got, documented)
		}
	}
	if got := (Options{}).Memory(); (got+mib/2)/mib != 201 {
		t.Errorf("by default %d bytes, want 201 MiB", got)
	}
}

// The progress is reported whenever it changes, and only then. The summary has the sums of all paths.
func TestTotals(t *testing.T) {
	inBubble(t, devcache.Strict, func(t *testing.T, f *fixture) {
		type progress struct {
			done, expected int
			bytes          int64
		}
		var reported []progress
		f.options.Progress = func(done, expected int, bytes int64) {
			reported = append(reported, progress{done, expected, bytes})
		}
		first := f.store.add("first")
		last := f.store.add("last", first)
		f.run(last)
		var narBytes int64
		for _, info := range f.store.infos {
			narBytes += info.NarSize
		}
		bytes := int64(0)
		for i, p := range reported {
			if i > 0 && p == reported[i-1] || p.bytes < bytes || (p.done > 1) != (p.bytes > bytes && bytes > 0) {
				t.Errorf("report %d of %v is wrong", i, reported)
			}
			bytes = p.bytes
		}
		if n := len(reported); n < 3 || reported[n-1].done != 2 || reported[n-2].done != 1 {
			t.Errorf("the progress was %v", reported)
		}
		if n := f.lines(": pushing "); n > 0 {
			t.Errorf("%d lines about the beginning of small uploads", n)
		}
		f.wantLine(fmt.Sprintf("…: push: 2 paths pushed (%s, %s compressed), 0 already there, …", size(narBytes), size(bytes)))
	})
}

// The summary says what was pushed, and names up to three of the paths that failed by themselves.
func TestSum(t *testing.T) {
	failure := func(name, why string) *entry {
		return &entry{path: cachix.Path{StorePath: cachix.StoreDir + strings.Repeat("0", 32) + "-" + name}, err: errors.New(why)}
	}
	because := func(err error) *entry {
		e := failure("other", "")
		e.err = fmt.Errorf("not pushed: %w", err)
		return e
	}
	some := counts{pushed: 3, there: 2, upstream: 1, narBytes: 3 << 20, fileBytes: 1 << 20}
	const pushed = "push: 3 paths pushed (3 MiB, 1 MiB compressed), 2 already there, 1 skipped as upstream's; 1.5s after the build"
	for name, test := range map[string]struct {
		counts counts
		failed []*entry
		err    error
		want   string
	}{
		"all":        {some, nil, nil, ""},
		"one failed": {some, []*entry{failure("a", "broken")}, nil, "1 of 6 paths could not be pushed: a: broken"},
		"others failed because of it": {some, []*entry{because(errReference), failure("a", "broken"), because(errGaveUp)}, nil,
			"3 of 8 paths could not be pushed: a: broken"},
		"three": {some, []*entry{failure("c", "3"), failure("a", "1"), failure("b", "2")}, nil,
			"3 of 8 paths could not be pushed: a: 1; b: 2; c: 3"},
		"five": {some, []*entry{failure("a", "1"), failure("b", "2"), failure("c", "3"), failure("d", "4"), failure("e", "5")}, nil,
			"5 of 10 paths could not be pushed: a: 1; b: 2; c: 3; and 2 more like these"},
		"the store failed": {some, nil, errors.New("broken"), "what it yields could not be pushed: broken"},
	} {
		var log []string
		sum := &tally{counts: test.counts, say: func(format string, args ...any) { log = append(log, fmt.Sprintf(format, args...)) }}
		got := sum.sum(test.failed, test.err, 1500*time.Millisecond)
		want := []string{pushed}
		if test.want != "" {
			want = append(want, "push: NOT COMPLETE: "+test.want)
		}
		if got != test.want || !slices.Equal(log, want) {
			t.Errorf("%s: %q, and the log is %q", name, got, log)
		}
	}
}

func TestRate(t *testing.T) {
	for _, test := range []struct {
		bytes int64
		took  time.Duration
		want  string
	}{{10 << 20, 2 * time.Second, "5 MiB/s"}, {1 << 20, time.Second / 2, "2 MiB/s"}, {1, 0, "976.6 KiB/s"}} {
		if got := rate(test.bytes, test.took); got != test.want {
			t.Errorf("%d bytes in %s: %s, want %s", test.bytes, test.took, got, test.want)
		}
	}
}

// After three failures in a row, no more is pushed, and failures are no longer written to the log. A success in between
// counts. A failure because the job has ended is none.
func TestFailures(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var log []string
	tally := &tally{say: func(format string, args ...any) { log = append(log, fmt.Sprintf(format, args...)) }}
	fail := func(ctx context.Context, n int) {
		for range n {
			tally.failed(ctx, cachix.Path{StorePath: cachix.StoreDir + strings.Repeat("0", 32) + "-a"}, errors.New("broken"))
		}
	}
	check := func(when string, lines int, gaveUp bool) {
		t.Helper()
		if len(log) != lines || (tally.hasGivenUp() != nil) != gaveUp {
			t.Errorf("%s: given up: %v; %d lines, want %d: %q", when, tally.hasGivenUp(), len(log), lines, log)
		}
	}
	fail(ended, 5)
	check("at the end of the job", 0, false)
	fail(t.Context(), 2)
	tally.succeeded(func(*counts) {})
	fail(t.Context(), 2)
	check("after a success", 4, false)
	fail(t.Context(), 5)
	check("after three failures", 6, true) // the last says that nothing more is pushed
	tally.count(func(c *counts) { c.expected = 5 })
	tally.tryAgain(3)
	check("again", 6, false)
	if tally.counts.expected != 2 {
		t.Errorf("%d paths are expected, want those that have not failed", tally.counts.expected)
	}
	fail(t.Context(), 2)
	check("again, after two failures", 8, false)
}
