//go:build integration

package push

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/test/kit/devcache"
	"iglu.sh/builder/test/kit/fixture"
)

// aboutFlake has packages that need a tool only for their build. The packages do not refer to it.
const aboutFlake = `{
  outputs = { self }: let
    d = name: script: more: derivation ({
      inherit name;
      system = "SYSTEM";
      builder = "/nix/var/nix/profiles/default/bin/bash";
      PATH = "/nix/var/nix/profiles/default/bin";
      args = [ "-ec" script ];
    } // more);
    tool = d "tool" "echo a tool > $out" { };
    needs = name: script: more: d name ": ${tool}; ${script}" more;
  in {
    packages.SYSTEM = rec {
      default = needs "program" "mkdir -p $out/bin; printf '#!/bin/sh\necho the program runs\n' > $out/bin/program; chmod +x $out/bin/program; :" { };
      other = needs "other" "echo ${default} > $out" { };
      many = needs "many" "mkdir $out $dev $doc; echo $dev > $out/dev" { outputs = [ "out" "dev" "doc" ]; };
    };
    checks.SYSTEM.check = needs "check" "echo > $out" { };
    devShells.SYSTEM.default = needs "shell" "echo > $out" { outputs = [ "out" ]; };
  };
}
`

// commitAbout publishes aboutFlake, once for all tests.
var commitAbout = sync.OnceValue(func() error {
	return fixture.Env.Git.Commit("about", "main", map[string]string{
		"flake.nix":   strings.ReplaceAll(aboutFlake, "SYSTEM", fixture.System),
		"default.nix": "((import ./flake.nix).outputs { self = null; }).packages." + fixture.System + ".other",
	})
})

// publishAbout publishes aboutFlake, and returns a function that makes a job with a command in it.
func publishAbout(t *testing.T) func(command string) fixture.Job {
	t.Helper()
	if err := commitAbout(); err != nil {
		t.Fatal(err)
	}
	return func(command string) fixture.Job { return fixture.Build(fixture.Env.Git.Public+"/about", command) }
}

// aboutServer returns a server whose jobs share a store.
func aboutServer(t *testing.T, e *fixture.Engine) *fixture.Server {
	return e.Server(t, func(s *server.Settings) { s.Store = stores.Shared })
}

// TestAbout runs a job that builds without pushing, and then jobs that push without building. Each pushes
// everything that its command refers to.
func TestAbout(t *testing.T) { fixture.OnEngines(t, about) }

func about(all *testing.T, e *fixture.Engine) {
	t := all
	s := aboutServer(t, e)
	build := publishAbout(t)
	first := fixture.Do(t, s, build(`sh -c 'set -e
nix build --no-link .#default .#other .#many .#checks.`+fixture.System+`.check
nix develop -c true
nix eval --raw .#default; echo; nix eval --raw .#default.drvPath; echo'`))
	fixture.WantExit(t, first, 0)
	paths := first.Paths()
	if len(paths) != 2 {
		t.Fatalf("it has not printed two paths: %v", first.Lines)
	}
	result, drv := paths[0], paths[1]

	var caches []*fixture.BinaryCache
	commands := []struct{ name, command, want string }{
		{"build --no-link", "nix build --no-link", "program tool"},
		{"nix-build", "nix-build --no-out-link", "other program tool"},
		{"flake check", "nix flake check", "check many many-dev many-doc other program tool"},
		{"develop", "nix develop -c true", "shell-env tool"},
		{"derivation", "nix build --no-link " + drv + "^*", "program tool"},
		// In the long suite also:
		{"one output", "nix build --no-link .#many^dev", "many many-dev many-doc tool"},
		{"build --json", "nix build --no-link --json", "program tool"},
		{"run", "nix run", "program tool"},
		{"path", "nix build --no-link " + result, "program"},
		{"build", "nix build", "program tool"},
		{"build --profile", "nix build --no-link --profile /tmp/profile", "program tool"},
		{"build -o", "nix build -o /tmp/of/mine/x", "program tool"},
		{"several installables", "nix build --no-link .#other .#default", "other program tool"},
		{"all outputs", "nix build --no-link .#many^*", "many many-dev many-doc tool"},
		{"shell", "nix shell -c program", "program tool"},
		{"realised path", "env nix-store -r " + result, "program"},
		{"realised derivation", "env nix-store -r " + drv, "program tool"},
		{"instantiated", "env nix-instantiate", "other program tool"},
		{"in the background", "sh -c 'nix build --no-link & wait; sleep 1000 &'", "program tool"},
	}
	for _, test := range commands[:fixture.Size(5, len(commands))] {
		t.Run(test.name, func(t *testing.T) {
			c := fixture.NewCache(all)
			caches = append(caches, c)
			got := fixture.Do(t, s, c.Pushing(build(test.command)))
			fixture.WantExit(t, got, 0)
			wantNothingBuilt(t, got)
			fixture.WantNames(t, c, strings.Fields(test.want))
		})
	}
	wantCopied(t, caches...)
}

// wantNothingBuilt checks that a job has built nothing.
func wantNothingBuilt(t *testing.T, r fixture.Result) {
	t.Helper()
	if slices.ContainsFunc(r.Lines, func(line string) bool { return strings.HasPrefix(line, "building '") }) {
		t.Errorf("it builds: %s", strings.Join(r.Lines, "\n"))
	}
}

// wantCopied copies all paths of each cache into an empty store with Nix. Signatures are required.
func wantCopied(t *testing.T, caches ...*fixture.BinaryCache) {
	t.Helper()
	script := "set -e\n"
	for _, c := range caches {
		script += fmt.Sprintf("nix --extra-experimental-features nix-command copy --from %s --to /tmp/empty %s\n", c.URL, strings.Join(c.Paths(), " ")) +
			"NIX_REMOTE=local?root=/tmp/empty nix-store --verify --check-contents\nchmod -R u+w /tmp/empty\nrm -r /tmp/empty\n"
	}
	fixture.Docker(t, "run", "--rm", "--env", "NIX_CONFIG=require-sigs = true\nsubstituters =\ntrusted-public-keys = default:"+fixture.PublicKey(t),
		fixture.Env.Image, "bash", "-c", script)
}

// TestAboutNothing runs a command that refers to nothing in the store.
func TestAboutNothing(t *testing.T) {
	c := fixture.NewCache(t)
	got := fixture.Do(t, fixture.Env.Server, c.Pushing(fixture.Command("nix eval --expr 1")))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "iglu: push: this command yielded nothing to push")
}

// TestAboutDerivation builds a result that refers to a derivation. Nix copies the derivation with it.
func TestAboutDerivation(t *testing.T) {
	c := fixture.NewCache(t)
	got := fixture.Do(t, fixture.Env.Server, c.Pushing(fixture.Command(`nix-build --no-out-link -E 'let d = name: script: derivation { inherit name; `+
		`system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; }; in d "refers" "echo ${(d "needed" "echo > $out").drvPath} > $out"'`)))
	fixture.WantExit(t, got, 0)
	fixture.WantNames(t, c, []string{"needed", "needed.drv", "refers"})
	wantCopied(t, c)
}

// TestAboutContentAddressed builds a content-addressed derivation, whose output path is not known before the build.
// The daemon of the job image must support that feature.
func TestAboutContentAddressed(t *testing.T) { fixture.OnEngines(t, aboutContentAddressed) }

func aboutContentAddressed(t *testing.T, e *fixture.Engine) {
	s := warmServer(t, e, `conf=$(readlink -f /etc/nix/nix.conf)
rm /etc/nix/nix.conf
{ cat $conf; echo extra-experimental-features = ca-derivations; } > /etc/nix/nix.conf`, func(*server.Settings) {})
	c := fixture.NewCache(t)
	got := fixture.Do(t, s, c.Pushing(contentAddressed))
	fixture.WantExit(t, got, 0)
	fixture.WantNames(t, c, []string{"floating"})
	fixture.WantLine(t, got, "iglu: warning: 1 path of content-addressed derivations: ")
}

// TestAboutWithoutFeature builds such a derivation with a daemon that does not support the feature: Nix does not even make
// the derivation.
func TestAboutWithoutFeature(t *testing.T) {
	fixture.WantExit(t, fixture.Do(t, fixture.Env.Server, fixture.NewCache(t).Pushing(contentAddressed)), 1)
}

var contentAddressed = fixture.Command(`nix build --no-link --impure --extra-experimental-features ca-derivations --expr 'derivation { name = "floating"; ` +
	`system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; }'`)

// TestAboutAfterFailure runs jobs whose results are not pushed, because of a failure. The next job with the same
// derivation pushes it and builds nothing.
func TestAboutAfterFailure(t *testing.T) { fixture.OnEngines(t, aboutAfterFailure) }

func aboutAfterFailure(t *testing.T, e *fixture.Engine) {
	s := aboutServer(t, e)
	begun := func(t *testing.T, c *fixture.BinaryCache, build string) *fixture.Client {
		c.Misbehave(devcache.On("POST", fixture.UploadBegin, devcache.Hang()))
		client := fixture.Connect(t, s)
		client.Send(fixture.JSONOf(t, c.Pushing(fixture.Command(fmt.Sprintf(`sh -c '%s; echo begun; sleep 1000'`, build)))))
		client.WaitFor(`"begun"`)
		return client
	}
	failures := []struct {
		name  string
		first func(t *testing.T, c *fixture.BinaryCache, build string)
	}{
		{"cancelled", func(t *testing.T, c *fixture.BinaryCache, build string) {
			client := begun(t, c, build)
			client.Conn.Close()
			fixture.WantFree(t, s)
		}},
		// In the long suite also:
		{"refused", func(t *testing.T, c *fixture.BinaryCache, build string) {
			c.Misbehave(devcache.On("POST", fixture.UploadBegin, devcache.Answer(403, "no")))
			fixture.WantUnpushed(t, fixture.Do(t, s, c.Pushing(fixture.Command("sh -c '"+build+"'"))), "does not accept the API key")
		}},
		{"killed", func(t *testing.T, c *fixture.BinaryCache, build string) {
			client := begun(t, c, build)
			e.Docker(t, "kill", s.JobContainer(t))
			client.Finish()
		}},
	}
	for _, failure := range failures[:fixture.Size(1, len(failures))] {
		name := failure.name
		t.Run(name, func(t *testing.T) {
			build := fmt.Sprintf(`nix build --no-link --impure --expr "let d = name: script: derivation { inherit name; system = builtins.currentSystem; builder = \"/bin/sh\"; `+
				`args = [ \"-c\" script ]; }; needed = d \"needed-%[1]s\" \"echo > \$out\"; in d \"top-%[1]s\" \": \${needed}; echo > \$out\""`, name)
			c := fixture.NewCache(t)
			failure.first(t, c, build)
			c.Misbehave()
			fixture.WantNames(t, c, nil)
			next := fixture.Do(t, s, c.Pushing(fixture.Command("sh -c '"+build+"'")))
			fixture.WantExit(t, next, 0)
			fixture.WantNames(t, c, []string{"needed-" + name, "top-" + name})
			wantNothingBuilt(t, next)
		})
	}
}

// TestAboutAsRoot runs a command as root, whose Nix does not use a daemon by default.
func TestAboutAsRoot(t *testing.T) { fixture.OnEngines(t, aboutAsRoot) }

func aboutAsRoot(t *testing.T, e *fixture.Engine) {
	const build = `nix-build --no-out-link -E 'derivation { name = "a"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; }'`
	s := e.Server(t, func(s *server.Settings) { s.Store, s.JobUser = stores.Shared, orchestrator.UserRoot })
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command(build)), 0)
	c := fixture.NewCache(t)
	got := fixture.Do(t, s, c.Pushing(fixture.Command("env "+strings.Replace(build, "--no-out-link", "--no-out-link --option build-dir /tmp", 1)+" --quiet")))
	fixture.WantExit(t, got, 0)
	fixture.WantNames(t, c, []string{"a"})
	got = fixture.Do(t, s, c.Pushing(fixture.Command("nix store info")))
	fixture.WantLine(t, got, "Trusted: 1")
}
