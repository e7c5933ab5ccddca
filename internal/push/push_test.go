package push

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"runtime"
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

// A cache that is full removes a path that it had when the build began. The path is pushed again at the end.
func TestRemovedDuringTheBuild(t *testing.T) {
	for _, kind := range []devcache.Kind{devcache.Strict, devcache.Standalone} {
		inBubble(t, kind, func(t *testing.T, f *fixture) {
			kept, removed := f.store.add("kept"), f.store.add("removed")
			f.run(kept, removed)
			f.wantTotal(2, 0, 0)
			f.store.remove(kept, removed)
			j := f.watch()
			f.store.add("kept")
			f.store.add("removed")
			time.Sleep(time.Minute)
			hash, _, _ := strings.Cut(strings.TrimPrefix(removed, cachix.StoreDir), "-")
			if err := os.Remove(f.folder + "/default/narinfo/" + hash + ".narinfo"); err != nil {
				t.Fatal(err)
			}
			if unpushed := j.finish(f.store.add("app", removed)); unpushed != "" {
				t.Error(unpushed)
			}
			f.wantTotal(2, 1, 0)
			f.wantNames("app", "kept", "removed")
		})
	}
}

// Paths that are damaged in the store are not pushed. The others are, however many damaged ones come first.
func TestDamagedPaths(t *testing.T) {
	inEachKind(t, func(t *testing.T, f *fixture) {
		f.options.Uploads = 1
		results := []string{f.store.add("ok")} // the smallest, so the last
		for i := range 4 {
			damaged := f.store.add(fmt.Sprint("damaged-", i))
			f.store.change(damaged, func(info *nixstore.Info) { info.NarHash = [32]byte{1} })
			results = append(results, damaged)
		}
		if unpushed := f.run(results...); !strings.HasPrefix(unpushed, "4 of 5 paths could not be pushed: damaged-0: ") {
			t.Errorf("unpushed: %q", unpushed)
		}
		f.wantNames("ok")
	})
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

// Builds of some derivations differ each time. A path of another build, which a key of the cache has signed, is there:
// this cache would keep it even if it got another. That is so for a path that another job pushes at the same time, too.
func TestAnotherBuild(t *testing.T) {
	for _, kind := range devcache.Kinds() {
		for _, race := range []bool{false, true} {
			inBubble(t, kind, func(t *testing.T, f *fixture) {
				path := f.store.add("path")
				f.run(path)
				f.store.put(path, "of another build of path", nil)
				want := "already there"
				if race { // the cache has answered that it lacks the path, and keeps the other build
					f.cache.Misbehave(devcache.On("POST", "/api/v1/cache/*/narinfo", devcache.Answer(200, fmt.Sprintf("[%q]", path[len("/nix/store/"):][:32]))),
						devcache.On("GET", "/default/*.narinfo", devcache.Times(1, devcache.Answer(404, ""))),
						devcache.On("POST", "/api/v1/cache/*/multipart-nar/*/complete", devcache.Answer(200, "{}")))
					want = "the cache has path of another job, and keeps that"
				}
				if unpushed := f.run(path); unpushed != "" || f.lines(want) == 0 {
					t.Errorf("%s, race %t: unpushed: %q, said %q", kind, race, unpushed, f.log)
				}
				f.wantTotal(0, 1, 0)
			})
		}
	}
}

// A path that is damaged in the store has not been pushed, although another job pushes another build of it at the same time.
func TestDamagedAnotherBuild(t *testing.T) {
	inBubble(t, devcache.Strict, func(t *testing.T, f *fixture) {
		path := f.store.add("path")
		f.run(path)
		f.store.put(path, "of another build of path", nil)
		f.store.change(path, func(info *nixstore.Info) { info.NarHash = [32]byte{1} })
		f.cache.Misbehave(devcache.On("POST", listCall, devcache.Answer(200, fmt.Sprintf("[%q]", path[len("/nix/store/"):][:32]))),
			devcache.On("GET", narInfoCall, devcache.Times(1, devcache.Answer(404, ""))))
		if unpushed := f.run(path); !strings.Contains(unpushed, string(cachix.WrongNar)) {
			t.Errorf("unpushed: %q, said %q", unpushed, f.log)
		}
	})
}

// A path that the cache shows with another file than the pushed one is not pushed: it is of no other build.
func TestAnotherFile(t *testing.T) {
	inBubble(t, devcache.Strict, func(t *testing.T, f *fixture) {
		f.cache.Misbehave(devcache.On("GET", "/default/*.narinfo", devcache.ReplaceField("FileHash", "sha256:"+strings.Repeat("0", 52))))
		if unpushed := f.run(f.store.add("path")); !strings.Contains(unpushed, "FileHash is ") {
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
