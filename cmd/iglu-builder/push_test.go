package main

import (
	"crypto/rand"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"iglu.sh/builder/internal/cachix"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/devcache"
	"iglu.sh/builder/test/kit/gitserver"
)

// A binaryCache is a strict cache of a test's own, where containers reach it.
type binaryCache struct {
	*devcache.Server
	t      *testing.T
	folder string
	url    string
}

// publicKey is the public half of the tests' signing key.
func publicKey(t *testing.T) string {
	t.Helper()
	key, err := cachix.ParseSigningKey(signingKey)
	if err != nil {
		t.Fatal(err)
	}
	return key.Public()
}

// newCache starts a cache that knows the tests' signing key.
func newCache(t *testing.T) *binaryCache {
	t.Helper()
	c := emptyCache(t)
	if err := c.AddKey("default", publicKey(t)); err != nil {
		t.Fatal(err)
	}
	return c
}

// emptyCache starts a cache without a signing key.
func emptyCache(t *testing.T) *binaryCache {
	t.Helper()
	folder := t.TempDir()
	server, err := devcache.New(devcache.Options{Folder: folder, Token: apiKey, Names: []string{"default"}})
	if err != nil {
		t.Fatal(err)
	}
	url, stop, err := gitserver.Serve(server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop() })
	return &binaryCache{Server: server, t: t, folder: folder, url: url + "/default"}
}

// pushing returns a job that pushes to the cache.
func (c *binaryCache) pushing(j job) job {
	j.BuildOptions.Cachix = schemas.Cachix{Push: true, Target: c.url, APIKey: apiKey, SigningKey: signingKey}
	return j
}

// names returns the names of the paths that the cache has, without their hashes.
func (c *binaryCache) names() []string {
	c.t.Helper()
	files, err := filepath.Glob(filepath.Join(c.folder, "default/narinfo/*.narinfo"))
	if err != nil {
		c.t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			c.t.Fatal(err)
		}
		path := regexp.MustCompile(`(?m)^StorePath: /nix/store/\w+-(\S+)$`).FindSubmatch(text)
		if path == nil {
			c.t.Fatalf("no path in %s", text)
		}
		names = append(names, string(path[1]))
	}
	slices.Sort(names)
	return names
}

// clear makes the cache one that has never had a path.
func (c *binaryCache) clear() {
	c.t.Helper()
	for _, kind := range []string{"narinfo", "nar"} {
		files, _ := filepath.Glob(filepath.Join(c.folder, "default", kind, "*"))
		for _, file := range files {
			if err := os.Remove(file); err != nil {
				c.t.Fatal(err)
			}
		}
	}
}

// total is the line that sums a push up.
var total = regexp.MustCompile(`^iglu: push: (\d+) paths? pushed \(.*\), (\d+) already there, (\d+) skipped as upstream's; .* after the build$`)

// wantTotal checks how many paths a job says that it has pushed, found, and skipped.
func wantTotal(t *testing.T, r result, pushed, there, upstream int) {
	t.Helper()
	for _, line := range r.lines {
		if m := total.FindStringSubmatch(line); m != nil {
			if !slices.Equal(m[1:], []string{strconv.Itoa(pushed), strconv.Itoa(there), strconv.Itoa(upstream)}) {
				t.Errorf("want %d pushed, %d there, %d upstream: %s", pushed, there, upstream, line)
			}
			return
		}
	}
	t.Errorf("no total in\n%s", strings.Join(r.lines, "\n"))
}

// wantUnpushed checks that a job's build succeeded, and that its push did not, because
// of why.
func wantUnpushed(t *testing.T, r result, why string) {
	t.Helper()
	last := r.messages[len(r.messages)-1]
	const begin = `{"error":"Something went wrong while building. Builder exited with error code 75","msg":"The build itself succeeded, but `
	const end = `","buildExitCode":75,"childExitCode":75,"jobStatus":"failed"}`
	if !strings.HasPrefix(last, begin) || !strings.HasSuffix(last, end) || !strings.Contains(last, why) || r.closeCode != 1011 {
		t.Errorf("want %q, got %s, close code %d, lines:\n%s", why, last, r.closeCode, strings.Join(r.lines, "\n"))
	}
}

// closureNix is a package of 60 paths that refer to one another: a chain, with all
// that paths can hold at its end.
const closureNix = `
let
  d = name: script: derivation {
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/nix/var/nix/profiles/default/bin";
    args = [ "-ec" script ];
  };
  kinds = d "all-Kinds+of_files.0-9?=x" ''
    mkdir -p $out/bin $out/empty-folder $out/files
    printf '#!/bin/sh\necho ran\n' > $out/bin/run
    chmod +x $out/bin/run
    ln -s bin/run $out/link
    ln -s /nowhere $out/dangling
    : > $out/empty
    head -c 200000000 /dev/zero | tr '\0' 'x' > $out/large
    : > "$out/files/with space, ümläut and 枝"
    : > "$out/files/$(printf 'line\nend')"
    : > "$out/files/$(printf '\377')"
    : > "$out/files/..dots"
    : > "$out/files/A"
    : > "$out/files/a"
    echo "$out" > $out/self
  '';
  link = n: if n == 0 then kinds else d "link-${toString n}" "echo ${link (n - 1)} > $out; echo made ${toString n}";
  last = link 58;
in
d "last" "mkdir $out; ln -s ${kinds}/bin/run $out/run; echo ${last} > $out/refers"
`

// closureOf is how many paths the closure of closureNix has.
const closureOf = 60

var publishClosure = sync.OnceValue(func() error {
	return world.git.commit("closure", "main", map[string]string{"default.nix": closureNix})
})

func closureRepository(t *testing.T) string {
	t.Helper()
	if err := publishClosure(); err != nil {
		t.Fatal(err)
	}
	return world.git.public + "/closure"
}

// TestPush pushes a closure. Nix in a fresh container gets it, signatures required; the
// same job once more has nothing to push, and everything when the cache has lost it,
// also from a store in which all is built already.
func TestPush(t *testing.T) { onEngines(t, pushClosure) }

func pushClosure(t *testing.T, e *site) {
	s := e.server(t, func(*settings) {})
	c := newCache(t)
	j := c.pushing(build(closureRepository(t), "nix-build"))
	first := do(t, s, j)
	wantExit(t, first, 0)
	wantTotal(t, first, closureOf, 0, 0)
	wantLine(t, first, "iglu: pushed last (")
	if got := len(c.names()); got != closureOf {
		t.Errorf("the cache has %d paths, want %d: %v", got, closureOf, c.names())
	}
	e.wantNixReads(t, c.url, first)

	second := do(t, s, j)
	wantExit(t, second, 0)
	wantTotal(t, second, 0, closureOf, 0)
	if e.isPodman() { // what follows costs much, and asks nothing more of an engine
		return
	}

	c.clear()
	warm := e.warmServer(t, "git clone -q "+j.Git.Repository+" /tmp/source; nix-build /tmp/source --no-out-link; rm -r /tmp/source", func(*settings) {})
	third := do(t, warm, j)
	wantExit(t, third, 0)
	if slices.ContainsFunc(third.lines, func(line string) bool { return strings.HasPrefix(line, "made ") }) {
		t.Error("the store was not warm")
	}
	wantTotal(t, third, closureOf, 0, 0)
	e.wantNixReads(t, c.url, third)
}

// wantNixReads has Nix in a fresh container, with an empty store, get the result of
// the closure's build from a cache, signatures required.
func (e *site) wantNixReads(t *testing.T, url string, r result) {
	t.Helper()
	i := slices.IndexFunc(r.lines, func(line string) bool { return strings.HasPrefix(line, "/nix/store/") })
	if i < 0 {
		t.Fatal("the build prints no path")
	}
	script := `set -e
nix-store --realise "$1" >/dev/null
nix-store --verify-path $(nix-store -qR "$1")
cd $(echo $(nix-store -qR "$1" | grep all-Kinds))
test -x bin/run -a -L link -a -L dangling -a -f empty -a ! -s empty -a -d empty-folder -a "$(wc -c < large)" = 200000000
test "$(ls -A files | wc -l)" -ge 6
nix-store -qR "$1" | wc -l
"$1/run"`
	output := e.docker(t, "run", "--rm", "--env",
		"NIX_CONFIG=require-sigs = true\nsubstituters = "+url+"\ntrusted-public-keys = default:"+publicKey(t),
		world.image, "bash", "-c", script, "bash", r.lines[i])
	if want := strconv.Itoa(closureOf) + "\nran"; !strings.HasSuffix(output, want) {
		t.Errorf("got %q, want %q", output, want)
	}
}

// warmServer returns a server whose jobs find in their store what a script has left there.
func (e *site) warmServer(t *testing.T, script string, change func(*settings)) *server {
	t.Helper()
	name := "iglu-test-warm:" + strings.ToLower(rand.Text())
	container := e.docker(t, "create", world.image, "bash", "-ec", script)
	e.cleanUp(t, "rm", container)
	e.docker(t, "start", "--attach", container)
	e.commit(t, container, name, "CMD []")
	e.cleanUp(t, "rmi", name)
	return e.server(t, func(s *settings) {
		s.jobImage = name
		change(s)
	})
}

// TestPushWhileBuilding has a build that does not end before its first path is in the
// cache.
func TestPushWhileBuilding(t *testing.T) { onEngines(t, pushWhileBuilding) }

func pushWhileBuilding(t *testing.T, e *site) {
	c := newCache(t)
	s := e.server(t, func(*settings) {})
	client := connect(t, s)
	client.send(jsonOf(t, c.pushing(command(`nix-build --no-out-link -E 'let d = name: script: derivation { inherit name; `+
		`system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/nix/var/nix/profiles/default/bin"; args = [ "-c" script ]; }; first = d "first" "echo > $out"; `+
		`in d "second" "echo ${first}; while [ ! -e /tmp/go-on ]; do sleep 0.1; done; echo > $out"'`))))
	client.waitFor("iglu: pushed first (")
	wantNames(t, c, []string{"first"})
	for _, container := range s.containers() {
		e.checkInspection(t, container)
		touch := []string{"--host", e.host, "exec", container, "touch", "/tmp/go-on"}
		// Podman has at times forgotten its session by then.
		if err := poll(10*time.Second, func() bool { return exec.Command("docker", touch...).Run() == nil }); err != nil {
			t.Fatal(err)
		}
	}
	client.waitFor("iglu: pushed second (")
	if got := client.finish(); got.messages[0] != succeeded {
		t.Errorf("got %v", got.messages)
	}
}

// checkInspection looks for secrets in what the engine tells of a container, but for the
// variables by which the job gets them.
func (e *site) checkInspection(t *testing.T, container string) {
	t.Helper()
	text := e.docker(t, "inspect", container)
	for _, name := range []string{jobenv.CacheToken, jobenv.SigningKey} {
		variable := regexp.MustCompile(`"` + name + `=[^"]+"`)
		if !variable.MatchString(text) {
			t.Errorf("the container has no %s", name)
		}
		text = variable.ReplaceAllString(text, "")
	}
	if err := checkSecrets(text); err != nil {
		t.Error(err)
	}
}

// TestResults has a store in which all is built already: what counts as a result of the
// job is what it links to, wherever the link is, and what it prints.
func TestResults(t *testing.T) { onEngines(t, results) }

func results(t *testing.T, e *site) {
	const expression = `derivation { name = "a"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; }`
	s := e.warmServer(t, "nix-build --no-out-link -E '"+expression+"'", func(*settings) {})
	for _, test := range []struct {
		name, command string
		pushed        int
	}{
		{"link", "nix build --impure --expr '" + expression + "'", 1},
		{"link elsewhere", "nix build --out-link /tmp/of/mine/x --impure --expr '" + expression + "'", 1},
		{"two links", "sh -c 'nix-build -o a -E \"$0\" >&2; nix-build -o b -E \"$0\" >&2' '" + expression + "'", 1},
		{"printed", "nix build --no-link --print-out-paths --impure --expr '" + expression + "'", 1},
		{"printed without a line end", "sh -c 'printf %s $(nix-build --no-out-link -E \"$0\")' '" + expression + "'", 1},
		{"printed by one that has not ended", "sh -c 'nix-build --no-out-link -E \"$0\"; sleep 1000 &' '" + expression + "'", 1},
		{"neither", "nix build --no-link --impure --expr '" + expression + "'", 0},
		{"printed, but no path", "printf '/nix/store/%s-a\n' 00000000000000000000000000000000", 0},
		{"printed much", "sh -c 'seq 200000; nix-build --no-out-link -E \"$0\"; seq 200000' '" + expression + "'", 1},
	} {
		if e.isPodman() && test.name == "printed much" {
			continue // that much is printed there by other tests
		}
		t.Run(test.name, func(t *testing.T) {
			c := newCache(t)
			got := do(t, s, c.pushing(command(test.command)))
			wantExit(t, got, 0)
			wantTotal(t, got, test.pushed, 0, 0)
			if test.name == "printed much" && len(got.lines) < 400_000 {
				t.Errorf("%d lines", len(got.lines))
			}
		})
	}
}

// TestUpstream has a path in the store that an upstream cache has signed: it is not
// pushed, unless the builder is set to do so, or the upstream is the cache itself.
func TestUpstream(t *testing.T) { onEngines(t, upstream) }

func upstream(t *testing.T, e *site) {
	const expression = `let d = name: script: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; };` +
		` in d "top" "echo ${d "libc" "echo > $out"} > $out"`
	// The path that is signed refers to nothing; the other refers to it.
	const script = `top=$(nix-build --no-out-link -E '` + expression + `')
libc=$(nix-store -q --references "$top")
export NIX_CONFIG="extra-experimental-features = nix-command"
nix key generate-secret --key-name upstream-1 > /key
nix store sign --key-file /key "$libc"
nix key convert-secret-to-public < /key > /public
printf '%s' "$OWN" > /own
nix store sign --key-file /own "$top"
rm /key /own`
	own := strings.Replace(script, "$OWN", "default:"+signingKey, 1)
	s := e.warmServer(t, own, func(*settings) {})
	upstream := e.docker(t, "run", "--rm", s.image, "cat", "/public")
	stranger := "upstream-1:" + base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, test := range []struct {
		name    string
		trusted []string
		names   []string
	}{
		{"trusted", []string{upstream}, []string{"top"}},
		{"trusted, and the cache itself", []string{"default:" + publicKey(t), upstream}, []string{"top"}},
		{"not trusted", nil, []string{"libc", "top"}},
		{"another of its name is", []string{stranger}, []string{"libc", "top"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCache(t)
			j := c.pushing(command("nix-build -E '" + expression + "'"))
			j.BuildOptions.TrustedPublicKeys = test.trusted
			got := do(t, s, j)
			wantExit(t, got, 0)
			wantTotal(t, got, len(test.names), 0, 2-len(test.names))
			wantNames(t, c, test.names)
		})
	}
	t.Run("all is to be pushed", func(t *testing.T) {
		c := newCache(t)
		j := c.pushing(command("nix-build -E '" + expression + "'"))
		j.BuildOptions.TrustedPublicKeys = []string{upstream}
		wantTotal(t, do(t, e.server(t, func(v *settings) { v.jobImage, v.pushUpstream = s.image, true }), j), 2, 0, 0)
	})
}
