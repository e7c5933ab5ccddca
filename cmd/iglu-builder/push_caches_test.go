package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/devcache"
	"iglu.sh/builder/test/kit/gitserver"
)

// Pushes to each kind of cache, and to caches that die. TestPushToEachCache is quick. All
// others are long, more than 30 s each: TestFlakeToEachCache, TestCacheAway,
// TestCacheAwayForGood.

// A mortalCache is a cache of a kind, where containers reach it, that can die and come back
// at the same address, with what it has on its disk.
type mortalCache struct {
	*binaryCache
	kind    devcache.Kind
	address string

	sent atomic.Int64                        // bytes of parts that have come
	seen atomic.Pointer[func(*http.Request)] // is called with each request, before it is served

	mu      sync.Mutex
	server  *http.Server
	over    bool           // it is not to come back
	serving sync.WaitGroup // servers that have not ended
}

func newMortalCache(t *testing.T, kind devcache.Kind) *mortalCache {
	t.Helper()
	c := &mortalCache{binaryCache: &binaryCache{t: t, folder: t.TempDir()}, kind: kind}
	listener, err := gitserver.Listen()
	if err != nil {
		t.Fatal(err)
	}
	c.address = listener.Addr().String()
	c.url = "http://" + c.address + "/default"
	c.serve(listener)
	t.Cleanup(func() {
		c.mu.Lock()
		c.over = true
		c.mu.Unlock()
		c.die()
		c.serving.Wait()
	})
	if err := c.AddKey("default", publicKey(t)); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *mortalCache) serve(listener net.Listener) {
	cache, err := devcache.New(devcache.Options{Folder: c.folder, Token: apiKey, Names: []string{"default"}, Kind: c.kind})
	if err != nil {
		c.t.Error(err)
		listener.Close()
		return
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			r.Body = &countedBody{r.Body, &c.sent}
		}
		if seen := c.seen.Load(); seen != nil {
			(*seen)(r)
		}
		cache.ServeHTTP(w, r)
	})}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		listener.Close()
		return
	}
	c.Server, c.server = cache, server
	c.serving.Go(func() { server.Serve(listener) })
}

// countedBody counts what is read of a request.
type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

// die breaks off all that the cache is about, and refuses connections from then on.
func (c *mortalCache) die() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server.Close()
}

// returns lets the cache come back. It is to have died.
func (c *mortalCache) returns() {
	listener, err := net.Listen("tcp", c.address)
	if err != nil {
		c.t.Error(err)
		return
	}
	c.serve(listener)
}

// diesAt has the cache die with the nth request of a method and a path, and come back after
// a while. Without a while, it stays dead.
func (c *mortalCache) diesAt(method, pattern string, nth int64, away time.Duration) (died <-chan time.Time) {
	var n atomic.Int64
	at := make(chan time.Time, 1)
	seen := func(r *http.Request) {
		if ok, _ := path.Match(pattern, r.URL.Path); !ok || r.Method != method || n.Add(1) != nth {
			return
		}
		go c.die()
		at <- time.Now()
		if away > 0 {
			time.AfterFunc(away, c.returns)
		}
		panic(http.ErrAbortHandler)
	}
	c.seen.Store(&seen)
	return at
}

// partsPattern is that of the addresses to which parts are sent.
func (c *mortalCache) partsPattern() string {
	if c.kind == devcache.Strict {
		return uploadedPart
	}
	return "/upload/*/*"
}

func eachCache(t *testing.T, test func(t *testing.T, kind devcache.Kind)) {
	for _, kind := range devcache.Kinds() {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			test(t, kind)
		})
	}
}

// TestPushToEachCache pushes to each kind of cache; once more, nothing goes up.
func TestPushToEachCache(t *testing.T) {
	t.Parallel()
	eachCache(t, func(t *testing.T, kind devcache.Kind) {
		c := newMortalCache(t, kind)
		s := ownServer(t)
		first := do(t, s, c.pushing(smallJob()))
		wantExit(t, first, 0)
		wantTotal(t, first, 2, 0, 0)
		wantNames(t, c.binaryCache, bothNames)
		c.sent.Store(0)
		second := do(t, s, c.pushing(smallJob()))
		wantExit(t, second, 0)
		wantTotal(t, second, 0, 2, 0)
		if n := c.sent.Load(); n != 0 {
			t.Errorf("%d bytes went up again", n)
		}
	})
}

// sixtyFlake is a flake of 60 derivations: a chain that begins with all that a path can hold,
// 300 MB among it, and one of several outputs.
const sixtyFlake = `{
  outputs = { self }: {
    packages.SYSTEM.default = let
      d = name: script: more: derivation ({
        inherit name;
        system = "SYSTEM";
        builder = "/bin/sh";
        PATH = "/nix/var/nix/profiles/default/bin";
        args = [ "-ec" script ];
      } // more);
      kinds = d "all-Kinds+of_files.0-9?=x" ''
        mkdir -p $out/bin $out/empty-folder
        printf '#!/bin/sh\necho ran\n' > $out/bin/run
        chmod +x $out/bin/run
        ln -s bin/run $out/link
        ln -s /nowhere $out/dangling
        : > $out/empty
        : > "$out/with space, ümläut and 枝"
        echo "$out" > $out/self
        seq 1 100000000 | head -c 300000000 > $out/large
      '' { };
      many = d "many" "mkdir $out $dev $doc; echo $dev > $out/dev; echo ${kinds} > $dev/kinds; : > $doc/empty" { outputs = [ "out" "dev" "doc" ]; };
      link = n: if n == 0 then kinds else d "link-${toString n}" "echo ${link (n - 1)} > $out" { };
    in d "last" "mkdir $out; ln -s ${kinds}/bin/run $out/run; echo ${link 57} ${many} ${many.doc} > $out/refers" { };
  };
}
`

// sixtyPaths is how many paths sixtyFlake yields: two more outputs than derivations.
const sixtyPaths = 62

var publishSixty = sync.OnceValue(func() error {
	return world.git.commit("sixty", "main", map[string]string{"flake.nix": strings.ReplaceAll(sixtyFlake, "SYSTEM", system)})
})

// hashesOf prints each path of a closure with the hash that the store has of it.
const hashesOf = `for p in $(nix-store -qR "$1"); do echo "$p $(nix-store -q --hash "$p")"; done`

// TestFlakeToEachCache (long) pushes sixtyFlake to each kind of cache in each form of the
// protocol, twice. The second time nothing goes up. Nix copies it back into an empty store,
// signatures required, with the hashes that it had where it was built.
func TestFlakeToEachCache(t *testing.T) {
	t.Parallel()
	if err := publishSixty(); err != nil {
		t.Fatal(err)
	}
	eachCache(t, func(t *testing.T, kind devcache.Kind) {
		inForms(t, func(t *testing.T, form schemas.Form) {
			c := newMortalCache(t, kind)
			s := ownServer(t)
			j := c.pushing(build(world.git.public+"/sixty",
				`sh -c 'set -e; nix build --print-out-paths; set -- $(readlink result); `+hashesOf+`'`))
			first := doIn(t, form, s, j)
			wantExit(t, first, 0)
			wantTotal(t, first, sixtyPaths, 0, 0)
			if got := len(c.names()); got != sixtyPaths {
				t.Errorf("the cache has %d paths, want %d", got, sixtyPaths)
			}
			c.wantSameHashes(first)
			c.sent.Store(0)
			second := doIn(t, form, s, j)
			wantExit(t, second, 0)
			wantTotal(t, second, 0, sixtyPaths, 0)
			if n := c.sent.Load(); n != 0 {
				t.Errorf("%d bytes went up again", n)
			}
		})
	})
}

// wantSameHashes has Nix copy what a job has built from the cache into an empty store,
// signatures required, and compares all hashes.
func (c *mortalCache) wantSameHashes(r result) {
	c.t.Helper()
	last := slices.IndexFunc(r.lines, func(line string) bool {
		return strings.HasPrefix(line, "/nix/store/") && strings.HasSuffix(line, "-last")
	})
	if last < 0 {
		c.t.Fatalf("the build prints no path:\n%s", strings.Join(r.lines, "\n"))
	}
	script := `set -e
nix --extra-experimental-features nix-command copy --from "$2" --to /tmp/empty "$1"
export NIX_REMOTE=local?root=/tmp/empty
nix-store --verify --check-contents >&2
` + hashesOf
	output := dockerSite.docker(c.t, "run", "--rm", "--env",
		"NIX_CONFIG=require-sigs = true\nsubstituters =\ntrusted-public-keys = default:"+publicKey(c.t),
		world.image, "bash", "-c", script, "bash", r.lines[last], c.url)
	var want []string
	for _, line := range r.lines {
		if strings.HasPrefix(line, "/nix/store/") && strings.Contains(line, " sha256:") {
			want = append(want, line)
		}
	}
	var got []string
	for _, line := range strings.Split(output, "\n") {
		if strings.Contains(line, " sha256:") {
			got = append(got, line)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if len(want) != sixtyPaths || !slices.Equal(got, want) {
		c.t.Errorf("%d paths came back as they were, want %d; copied:\n%s\nbuilt:\n%s", len(got), sixtyPaths,
			strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestCacheAway (long) has the cache die and come back after a while, at each point of a job:
// that costs time, and no path.
func TestCacheAway(t *testing.T) {
	t.Parallel()
	kinds := devcache.Kinds()
	for i, away := range []time.Duration{4 * time.Second, 30 * time.Second, 55 * time.Second} {
		for k, point := range []struct {
			name string
			test func(*testing.T, *mortalCache, time.Duration)
		}{{"amid an upload", awayAmidUpload}, {"during the build", awayDuringBuild}, {"after the build", awayAfterBuild}, {"before the build", awayBeforeBuild}} {
			kind := kinds[(i+k)%len(kinds)] // each at each point and for each time
			t.Run(fmt.Sprintf("%s, %s, %s", point.name, away, kind), func(t *testing.T) {
				t.Parallel()
				point.test(t, newMortalCache(t, kind), away)
			})
		}
	}
}

// wantSurvived checks a job that went on while its cache was away.
func (c *mortalCache) wantSurvived(r result, names ...string) {
	c.t.Helper()
	wantExit(c.t, r, 0)
	wantTotal(c.t, r, len(names), 0, 0)
	wantNames(c.t, c.binaryCache, names)
	wantLine(c.t, r, "; trying again for up to 1m30s")
	wantLine(c.t, r, " answers again, after ")
}

func awayAmidUpload(t *testing.T, c *mortalCache, away time.Duration) {
	c.diesAt("PUT", c.partsPattern(), 3, away)
	got := do(t, ownServer(t), c.pushing(command(`nix-build --no-out-link -E 'derivation { name = "large"; system = builtins.currentSystem; `+
		`builder = "/bin/sh"; PATH = "/nix/var/nix/profiles/default/bin"; args = [ "-c" "head -c 50000000 /dev/urandom > $out" ]; }'`)))
	c.wantSurvived(got, "large")
}

func awayAfterBuild(t *testing.T, c *mortalCache, away time.Duration) {
	c.diesAt("POST", uploadBegin, 1, away)
	c.wantSurvived(do(t, ownServer(t), c.pushing(smallJob())), bothNames...)
}

func awayBeforeBuild(t *testing.T, c *mortalCache, away time.Duration) {
	c.die()
	client := connect(t, ownServer(t))
	client.send(jsonOf(t, c.pushing(smallJob())))
	client.waitFor("; trying again for up to 1m30s")
	time.AfterFunc(away, c.returns)
	client.waitFor(" answers again, after ")
	c.wantPushed(client.finish(), bothNames...)
}

// awayDuringBuild has the cache die when the first path is in it, and come back while the
// build still goes on; the second path is built in between, the third after it.
func awayDuringBuild(t *testing.T, c *mortalCache, away time.Duration) {
	s := ownServer(t)
	client := connect(t, s)
	client.send(jsonOf(t, c.pushing(command(`nix-build --no-out-link -E 'let d = name: script: derivation { inherit name; `+
		`system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/nix/var/nix/profiles/default/bin"; args = [ "-c" script ]; }; first = d "first" "echo > $out"; `+
		`second = d "second" "echo ${first}; while [ ! -e /tmp/second ]; do sleep 0.1; done; echo > $out"; `+
		`in d "third" "echo ${second}; while [ ! -e /tmp/third ]; do sleep 0.1; done; echo > $out"'`))))
	client.waitFor("iglu: pushed first (")
	c.die()
	time.AfterFunc(away, c.returns)
	touch := func(file string) {
		for _, container := range s.containers() {
			if output, err := exec.Command("docker", "exec", container, "touch", file).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, output)
			}
		}
	}
	touch("/tmp/second")
	client.waitFor("; trying again for up to 1m30s")
	client.waitFor("iglu: pushed second (")
	touch("/tmp/third")
	c.wantPushed(client.finish(), "first", "second", "third")
}

// wantPushed checks the end of a job whose first messages the test has read.
func (c *mortalCache) wantPushed(rest result, names ...string) {
	c.t.Helper()
	rest.messages = append([]string{accepted}, rest.messages...)
	wantExit(c.t, rest, 0)
	wantTotal(c.t, rest, len(names), 0, 0)
	wantNames(c.t, c.binaryCache, names)
}

// TestCacheAwayForGood (long) has the cache die amid an upload and not come back: the job
// ends within 90 s of its build's end, with a push that is not complete, and within 90 s where
// it was dead before.
func TestCacheAwayForGood(t *testing.T) {
	t.Parallel()
	const bound, slow = 90 * time.Second, time.Minute // for a machine that has much else to do
	t.Run("after the build", func(t *testing.T) {
		t.Parallel()
		c := newMortalCache(t, devcache.Standalone)
		died := c.diesAt("POST", uploadBegin, 1, 0)
		got := do(t, ownServer(t), c.pushing(smallJob()))
		select {
		case at := <-died:
			if took := time.Since(at); took > bound+slow || took < bound {
				t.Errorf("the job ended %s after the cache, want %s", took, bound)
			}
		default:
			t.Error("the job has not come to its push")
		}
		wantUnpushed(t, got, "2 of 2 paths could not be pushed: first: start the upload of first to "+c.url+": the cache cannot be reached")
	})
	t.Run("before the build", func(t *testing.T) {
		t.Parallel()
		c := newMortalCache(t, devcache.Monorepo)
		c.die()
		start := time.Now()
		got := do(t, ownServer(t), c.pushing(smallJob()))
		if took := time.Since(start); took > bound+slow {
			t.Errorf("the job ended after %s, want %s", took, bound)
		}
		wantExit(t, got, 69)
		wantLine(t, got, "iglu: look up the cache "+c.url+": the cache cannot be reached")
	})
}
