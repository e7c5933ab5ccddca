//go:build integration

package push

import (
	"crypto/rand"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// closureNix is a package of closureOf paths. Each refers to the next, and the last has every kind of file.
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
    head -c LARGE /dev/zero | tr '\0' 'x' > $out/large
    : > "$out/files/with space, ümläut and 枝"
    : > "$out/files/$(printf 'line\nend')"
    : > "$out/files/$(printf '\377')"
    : > "$out/files/..dots"
    : > "$out/files/A"
    : > "$out/files/a"
    echo "$out" > $out/self
  '';
  link = n: if n == 0 then kinds else d "link-${toString n}" "echo ${link (n - 1)} > $out; echo made ${toString n}";
  last = link LINKS;
in
d "last" "mkdir $out; ln -s ${kinds}/bin/run $out/run; echo ${last} > $out/refers"
`

// largeFile is the size of one of its files, in bytes.
var largeFile = strconv.Itoa(fixture.Size(20_000_000, 200_000_000))

// closureOf is the number of paths in the closure of closureNix.
var closureOf = fixture.Size(12, 60)

var publishClosure = sync.OnceValue(func() error {
	return fixture.Env.Git.Commit("closure", "main", map[string]string{
		"default.nix": strings.NewReplacer("LARGE", largeFile, "LINKS", strconv.Itoa(closureOf-2)).Replace(closureNix)})
})

func closureRepository(t *testing.T) string {
	t.Helper()
	if err := publishClosure(); err != nil {
		t.Fatal(err)
	}
	return fixture.Env.Git.Public + "/closure"
}

// TestPush pushes a closure. Nix in a new container fetches it with required signatures. The same job again pushes
// nothing.
func TestPush(t *testing.T) { fixture.OnEngines(t, pushClosure) }

func pushClosure(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(*server.Settings) {})
	c := fixture.NewCache(t)
	j := c.Pushing(fixture.Build(closureRepository(t), "nix-build"))
	first := fixture.Do(t, s, j)
	fixture.WantExit(t, first, 0)
	fixture.WantTotal(t, first, closureOf, 0, 0)
	fixture.WantLine(t, first, "iglu: pushed last (")
	if got := len(c.Names()); got != closureOf {
		t.Errorf("the cache has %d paths, want %d: %v", got, closureOf, c.Names())
	}
	wantNixReads(t, e, c.URL, first)

	second := fixture.Do(t, s, j)
	fixture.WantExit(t, second, 0)
	fixture.WantTotal(t, second, 0, closureOf, 0)
}

// TestPushFromWarmStore runs a job whose results are all in its store. The cache has none of them, and gets all.
func TestPushFromWarmStore(t *testing.T) {
	t.Parallel()
	e, c := fixture.DockerEngine(), fixture.NewCache(t)
	j := c.Pushing(fixture.Build(closureRepository(t), "nix-build"))
	s := warmServer(t, e, "git clone -q "+j.Git.Repository+" /tmp/source; nix-build /tmp/source --no-out-link; rm -r /tmp/source", func(*server.Settings) {})
	got := fixture.Do(t, s, j)
	fixture.WantExit(t, got, 0)
	if slices.ContainsFunc(got.Lines, func(line string) bool { return strings.HasPrefix(line, "made ") }) {
		t.Error("the store was not warm")
	}
	fixture.WantTotal(t, got, closureOf, 0, 0)
	wantNixReads(t, e, c.URL, got)
}

// wantNixReads fetches the result of a job from a cache with Nix in a new container, with an empty store and required
// signatures.
func wantNixReads(t *testing.T, e *fixture.Engine, url string, r fixture.Result) {
	t.Helper()
	i := slices.IndexFunc(r.Lines, func(line string) bool { return strings.HasPrefix(line, "/nix/store/") })
	if i < 0 {
		t.Fatal("the build prints no path")
	}
	script := `set -e
exec 2>&1
nix-store --realise "$1" >/dev/null
nix-store --verify-path $(nix-store -qR "$1")
cd $(echo $(nix-store -qR "$1" | grep all-Kinds))
test -x bin/run -a -L link -a -L dangling -a -f empty -a ! -s empty -a -d empty-folder -a "$(wc -c < large)" = "$2"
test "$(ls -A files | wc -l)" -ge 6
nix-store -qR "$1" | wc -l
"$1/run"`
	output := e.Docker(t, "run", "--rm", "--env",
		"NIX_CONFIG=require-sigs = true\nsubstituters = "+url+"\ntrusted-public-keys = default:"+fixture.PublicKey(t),
		fixture.Env.Image, "bash", "-c", script, "bash", r.Lines[i], largeFile)
	if want := strconv.Itoa(closureOf) + "\nran"; !strings.HasSuffix(output, want) {
		t.Errorf("got %q, want %q", output, want)
	}
}

// warmServer returns a server whose jobs have a store that a script has filled.
func warmServer(t *testing.T, e *fixture.Engine, script string, change func(*server.Settings)) *fixture.Server {
	t.Helper()
	name := "iglu-test-warm:" + strings.ToLower(rand.Text())
	container := e.Docker(t, "create", fixture.Env.Image, "bash", "-ec", script)
	e.CleanUp(t, "rm", container)
	e.Docker(t, "start", "--attach", container)
	e.Commit(t, container, name, "CMD []")
	e.CleanUp(t, "rmi", name)
	return e.Server(t, func(s *server.Settings) {
		s.JobImage = name
		change(s)
	})
}

// TestPushWhileBuilding runs a build that ends only after its first path is in the cache.
func TestPushWhileBuilding(t *testing.T) { fixture.OnEngines(t, pushWhileBuilding) }

func pushWhileBuilding(t *testing.T, e *fixture.Engine) {
	c := fixture.NewCache(t)
	s := e.Server(t, func(*server.Settings) {})
	client := fixture.Connect(t, s)
	client.Send(fixture.JSONOf(t, c.Pushing(fixture.Command(`nix-build --no-out-link -E 'let d = name: script: derivation { inherit name; `+
		`system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/nix/var/nix/profiles/default/bin"; args = [ "-c" script ]; }; first = d "first" "echo > $out"; `+
		`in d "second" "echo ${first}; while [ ! -e /tmp/go-on ]; do sleep 0.1; done; echo > $out"'`))))
	client.WaitFor("iglu: pushed first (")
	fixture.WantNames(t, c, []string{"first"})
	for _, container := range s.Containers() {
		checkInspection(t, e, container)
		e.Exec(t, container, "touch", "/tmp/go-on")
	}
	client.WaitFor("iglu: pushed second (")
	if got := client.Finish(); got.Messages[0] != fixture.Succeeded {
		t.Errorf("got %v", got.Messages)
	}
}

// checkInspection looks for secrets in the engine's description of a container, except in the variables with which the
// job gets them.
func checkInspection(t *testing.T, e *fixture.Engine, container string) {
	t.Helper()
	text := e.Docker(t, "inspect", container)
	for _, name := range []string{jobenv.CacheToken, jobenv.SigningKey} {
		variable := regexp.MustCompile(`"` + name + `=[^"]+"`)
		if !variable.MatchString(text) {
			t.Errorf("the container has no %s", name)
		}
		text = variable.ReplaceAllString(text, "")
	}
	if err := fixture.CheckSecrets(text); err != nil {
		t.Error(err)
	}
}

// TestPrinted runs commands that print paths which they have added to the store without building them.
func TestPrinted(t *testing.T) { fixture.OnEngines(t, printed) }

func printed(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(*server.Settings) {})
	much := fixture.Size(20_000, 200_000)
	tests := []struct {
		name, script string
		pushed       int
	}{
		{"much", fmt.Sprintf("seq %d; nix-store --add /etc/nix; seq %d", much, much), 1},
		{"without a line end", "printf %s $(nix-store --add /etc/nix)", 1},
		{"as standard error", "nix-store --add /etc/nix >&2", 0},
		// In the long suite also:
		{"a path", "nix-store --add /etc/nix", 1},
		{"by one that has not ended", "nix-store --add /etc/nix; sleep 1000 &", 1},
		{"no path", `printf "/nix/store/%s-a\n" 00000000000000000000000000000000`, 0},
	}
	for _, test := range tests[:fixture.Size(3, len(tests))] {
		if e.IsPodman() && test.name == "much" {
			continue // other tests print as much on that engine
		}
		t.Run(test.name, func(t *testing.T) {
			c := fixture.NewCache(t)
			got := fixture.Do(t, s, c.Pushing(fixture.Command("sh -c '"+test.script+"'")))
			fixture.WantExit(t, got, 0)
			fixture.WantTotal(t, got, test.pushed, 0, 0)
			if test.name == "much" && len(got.Lines) < 2*much {
				t.Errorf("%d lines", len(got.Lines))
			}
		})
	}
}
