//go:build integration && long

package push

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/devcache"
	"iglu.sh/builder/test/kit/fixture"
)

// sixtyFlake is a flake of 60 derivations: a chain that begins with a path of every kind of file, 300 MB in total, and
// one derivation with several outputs.
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

// sixtyPaths is the number of output paths of sixtyFlake: two more than derivations.
const sixtyPaths = 62

var publishSixty = sync.OnceValue(func() error {
	return fixture.Env.Git.Commit("sixty", "main", map[string]string{"flake.nix": strings.ReplaceAll(sixtyFlake, "SYSTEM", fixture.System)})
})

// hashesOf is a command that prints each path of a closure with its hash in the store.
const hashesOf = `for p in $(nix-store -qR "$1"); do echo "$p $(nix-store -q --hash "$p")"; done`

// TestFlakeToEachCache pushes sixtyFlake twice to each kind of cache in each wire format. The second time, nothing is
// uploaded. Nix copies it into an empty store with required signatures. The hashes are those of the build's store.
func TestFlakeToEachCache(t *testing.T) {
	t.Parallel()
	if err := publishSixty(); err != nil {
		t.Fatal(err)
	}
	eachCache(t, func(t *testing.T, kind devcache.Kind) {
		fixture.InFormats(t, func(t *testing.T, format schemas.Format) {
			c := fixture.NewMortalCache(t, kind)
			s := fixture.OwnServer(t)
			j := c.Pushing(fixture.Build(fixture.Env.Git.Public+"/sixty",
				`sh -c 'set -e; nix build --print-out-paths; set -- $(readlink result); `+hashesOf+`'`))
			first := fixture.DoIn(t, format, s, j)
			fixture.WantExit(t, first, 0)
			fixture.WantTotal(t, first, sixtyPaths, 0, 0)
			if got := len(c.Names()); got != sixtyPaths {
				t.Errorf("the cache has %d paths, want %d", got, sixtyPaths)
			}
			wantSameHashes(t, c, first)
			c.Sent.Store(0)
			second := fixture.DoIn(t, format, s, j)
			fixture.WantExit(t, second, 0)
			fixture.WantTotal(t, second, 0, sixtyPaths, 0)
			if n := c.Sent.Load(); n != 0 {
				t.Errorf("%d bytes were uploaded again", n)
			}
		})
	})
}

// wantSameHashes copies a job's results from the cache into an empty store, with required signatures, and compares
// all hashes.
func wantSameHashes(t *testing.T, c *fixture.MortalCache, r fixture.Result) {
	t.Helper()
	last := slices.IndexFunc(r.Lines, func(line string) bool {
		return strings.HasPrefix(line, "/nix/store/") && strings.HasSuffix(line, "-last")
	})
	if last < 0 {
		t.Fatalf("the build prints no path:\n%s", strings.Join(r.Lines, "\n"))
	}
	script := `set -e
nix --extra-experimental-features nix-command copy --from "$2" --to /tmp/empty "$1"
export NIX_REMOTE=local?root=/tmp/empty
nix-store --verify --check-contents >&2
` + hashesOf
	output := fixture.Docker(t, "run", "--rm", "--env",
		"NIX_CONFIG=require-sigs = true\nsubstituters =\ntrusted-public-keys = default:"+fixture.PublicKey(t),
		fixture.Env.Image, "bash", "-c", script, "bash", r.Lines[last], c.URL)
	var want []string
	for _, line := range r.Lines {
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
		t.Errorf("%d paths are the same after the copy, want %d; copied:\n%s\nbuilt:\n%s", len(got), sixtyPaths,
			strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestCacheAway stops the cache for a while, at each point of a job. The job takes longer, but pushes every path.
func TestCacheAway(t *testing.T) {
	t.Parallel()
	kinds := devcache.Kinds()
	for i, away := range []time.Duration{4 * time.Second, 30 * time.Second, 55 * time.Second} {
		for k, point := range []struct {
			name string
			test func(*testing.T, *fixture.MortalCache, time.Duration)
		}{{"amid an upload", awayAmidUpload}, {"during the build", awayDuringBuild}, {"after the build", awayAfterBuild}, {"before the build", awayBeforeBuild}} {
			kind := kinds[(i+k)%len(kinds)] // every kind gets every point and every time
			t.Run(fmt.Sprintf("%s, %s, %s", point.name, away, kind), func(t *testing.T) {
				t.Parallel()
				point.test(t, fixture.NewMortalCache(t, kind), away)
			})
		}
	}
}

// wantSurvived checks a job that continued while its cache was stopped.
func wantSurvived(t *testing.T, c *fixture.MortalCache, r fixture.Result, names ...string) {
	t.Helper()
	fixture.WantExit(t, r, 0)
	fixture.WantTotal(t, r, len(names), 0, 0)
	fixture.WantNames(t, c.BinaryCache, names)
	fixture.WantLine(t, r, "; trying again for up to 1m30s")
	fixture.WantLine(t, r, " answers again, after ")
}

func awayAmidUpload(t *testing.T, c *fixture.MortalCache, away time.Duration) {
	c.DiesAt("PUT", c.PartsPattern(), 3, away)
	got := fixture.Do(t, fixture.OwnServer(t), c.Pushing(fixture.Command(`nix-build --no-out-link -E 'derivation { name = "large"; system = builtins.currentSystem; `+
		`builder = "/bin/sh"; PATH = "/nix/var/nix/profiles/default/bin"; args = [ "-c" "head -c 50000000 /dev/urandom > $out" ]; }'`)))
	wantSurvived(t, c, got, "large")
}

func awayAfterBuild(t *testing.T, c *fixture.MortalCache, away time.Duration) {
	c.DiesAt("POST", fixture.UploadBegin, 1, away)
	wantSurvived(t, c, fixture.Do(t, fixture.OwnServer(t), c.Pushing(fixture.SmallJob())), fixture.BothNames...)
}

func awayBeforeBuild(t *testing.T, c *fixture.MortalCache, away time.Duration) {
	c.Die()
	client := fixture.Connect(t, fixture.OwnServer(t))
	client.Send(fixture.JSONOf(t, c.Pushing(fixture.SmallJob())))
	client.WaitFor("; trying again for up to 1m30s")
	c.ReturnAfter(away)
	client.WaitFor(" answers again, after ")
	wantPushed(t, c, client.Finish(), fixture.BothNames...)
}

// awayDuringBuild stops the cache when it has the first path, and starts it again during the build. The second path
// is built while it is stopped, and the third later.
func awayDuringBuild(t *testing.T, c *fixture.MortalCache, away time.Duration) {
	s := fixture.OwnServer(t)
	client := fixture.Connect(t, s)
	client.Send(fixture.JSONOf(t, c.Pushing(fixture.Command(`nix-build --no-out-link -E 'let d = name: script: derivation { inherit name; `+
		`system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/nix/var/nix/profiles/default/bin"; args = [ "-c" script ]; }; first = d "first" "echo > $out"; `+
		`second = d "second" "echo ${first}; while [ ! -e /tmp/second ]; do sleep 0.1; done; echo > $out"; `+
		`in d "third" "echo ${second}; while [ ! -e /tmp/third ]; do sleep 0.1; done; echo > $out"'`))))
	client.WaitFor("iglu: pushed first (")
	c.Die()
	c.ReturnAfter(away)
	touch := func(file string) {
		for _, container := range s.Containers() {
			if output, err := exec.Command("docker", "exec", container, "touch", file).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, output)
			}
		}
	}
	touch("/tmp/second")
	client.WaitFor("; trying again for up to 1m30s")
	client.WaitFor("iglu: pushed second (")
	touch("/tmp/third")
	wantPushed(t, c, client.Finish(), "first", "second", "third")
}

// wantPushed checks the end of a job. The test has already read its first messages.
func wantPushed(t *testing.T, c *fixture.MortalCache, rest fixture.Result, names ...string) {
	t.Helper()
	rest.Messages = append([]string{fixture.Accepted}, rest.Messages...)
	fixture.WantExit(t, rest, 0)
	fixture.WantTotal(t, rest, len(names), 0, 0)
	fixture.WantNames(t, c.BinaryCache, names)
}

// TestCacheAwayForGood stops the cache for ever, during an upload or before the build. The job ends within 90 s, with an
// incomplete push in the first case.
func TestCacheAwayForGood(t *testing.T) {
	t.Parallel()
	const bound, slow = 90 * time.Second, time.Minute // slow is added for a busy machine
	t.Run("after the build", func(t *testing.T) {
		t.Parallel()
		c := fixture.NewMortalCache(t, devcache.Standalone)
		died := c.DiesAt("POST", fixture.UploadBegin, 1, 0)
		got := fixture.Do(t, fixture.OwnServer(t), c.Pushing(fixture.SmallJob()))
		select {
		case at := <-died:
			if took := time.Since(at); took > bound+slow || took < bound {
				t.Errorf("the job ended %s after the cache, want %s", took, bound)
			}
		default:
			t.Error("the job has not begun its push")
		}
		fixture.WantUnpushed(t, got, "2 of 2 paths could not be pushed: first: start the upload of first to "+c.URL+": the cache cannot be reached")
	})
	t.Run("before the build", func(t *testing.T) {
		t.Parallel()
		c := fixture.NewMortalCache(t, devcache.Monorepo)
		c.Die()
		start := time.Now()
		got := fixture.Do(t, fixture.OwnServer(t), c.Pushing(fixture.SmallJob()))
		if took := time.Since(start); took > bound+slow {
			t.Errorf("the job ended after %s, want %s", took, bound)
		}
		fixture.WantExit(t, got, 69)
		fixture.WantLine(t, got, "iglu: look up the cache "+c.URL+": the cache cannot be reached")
	})
}
