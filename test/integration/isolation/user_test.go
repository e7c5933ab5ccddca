//go:build integration

package isolation

import (
	"crypto/rand"
	"strings"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/test/kit/fixture"
)

// TestUser checks the user of a job's command.
func TestUser(t *testing.T) { fixture.OnEngines(t, jobUser) }

func jobUser(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(*server.Settings) {})
	got := fixture.Do(t, s, fixture.Command(`sh -c 'echo "uid $(id -u) $(id -un) groups $(id -G) home $HOME"; grep Cap /proc/self/status; `+
		`echo written > /dev/stdout; cat < /dev/stdout; touch $HOME/mine /source/mine /tmp/mine && nix store info'`))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "uid 30100 iglu groups 30100 home /home/iglu")
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
		fixture.WantLine(t, got, set+":\t0000000000000000")
	}
	fixture.WantLine(t, got, "written")
	fixture.WantLine(t, got, "Permission denied") // when it reads the output of other users' processes
	fixture.WantLine(t, got, "Trusted: 0")

	// Nix makes no hard links between files of the same content (see forbidLinks in package docker), and still removes paths.
	got = fixture.Do(t, s, fixture.Command(`sh -c 'echo same >a; echo same >b; a=$(nix-store --add a); b=$(nix-store --add b); `+
		`nix-store --optimise || [ $(stat -c %i $a) = $(stat -c %i $b) ] || echo "two files"; nix-store --delete $a $b && echo removed'`))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "two files")
	fixture.WantLine(t, got, "removed")

	s = e.Server(t, func(s *server.Settings) { s.JobUser = orchestrator.UserRoot })
	got = fixture.Do(t, s, fixture.Command(`sh -c 'echo "uid $(id -u)"; nix store info'`))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "uid 0")
	fixture.WantLine(t, got, "Store URL: local")
}

// flakeOfUser is a flake with a program as its default package, a check, a shell and an input.
const flakeOfUser = `{
  inputs.hello.url = "git+HELLO";
  outputs = { self, hello }: let
    system = "x86_64-linux";
    make = name: script: derivation { inherit name system; builder = "/bin/sh"; PATH = "/nix/var/nix/profiles/default/bin"; args = [ "-c" script ]; };
  in {
    packages.${system} = {
      default = make "program" "mkdir -p $out/bin; printf '#!/bin/sh\\necho the program runs as $(id -u)\\n' > $out/bin/program; chmod +x $out/bin/program; :";
      hello = hello.packages.${system}.default;
    };
    checks.${system}.check = make "check" "echo the check runs; echo > $out";
  };
}`

// TestCommandsOfUser runs common Nix commands as the job's user.
func TestCommandsOfUser(t *testing.T) { fixture.OnEngines(t, commandsOfUser) }

func commandsOfUser(t *testing.T, e *fixture.Engine) {
	g := &fixture.Env.Git
	s := e.Server(t, func(s *server.Settings) { s.Store = stores.Repository })
	publish := func(hello string) string {
		name := "user-" + strings.ToLower(rand.Text()[:10])
		if err := g.Commit(name, "main", map[string]string{
			"flake.nix":   strings.Replace(flakeOfUser, "HELLO", hello, 1),
			"default.nix": `let here = builtins.fetchGit { url = ./.; }; in ` + fixture.Derivation("fetched", "echo fetched ${here.rev}; echo > $out"),
		}); err != nil {
			t.Fatal(err)
		}
		return name
	}
	public, private, ssh := publish(g.Public+"/hello"), publish(g.Private+"/hello"), publish(g.SSH+"/hello")
	tests := []struct {
		name string
		job  fixture.Job
		line string
	}{
		{"run", fixture.Build(g.Public+"/"+public, "nix run"), "the program runs as 30100"},
		{"flake check", fixture.Build(g.Public+"/"+public, "nix flake check -L"), "the check runs"},
		{"fetchGit", fixture.Build(g.Public+"/"+public, "nix-build"), "fetched "},
		{"private input over ssh", g.WithKey(fixture.Build(g.SSH+"/"+ssh, "nix build -L .#hello"), g.Key), fixture.Hello},
		// In the long suite also:
		{"shell", fixture.Build(g.Public+"/"+public, "nix shell -c program"), "the program runs as 30100"},
		{"remote input", fixture.Build(g.Public+"/"+public, "nix build -L .#hello"), fixture.Hello},
		{"private input over http", g.WithKey(fixture.Build(g.Private+"/"+private, "nix build -L .#hello"), fixture.GitPassword), fixture.Hello},
	}
	for _, test := range tests[:fixture.Size(4, len(tests))] {
		t.Run(test.name, func(t *testing.T) {
			got := fixture.Do(t, s, test.job)
			fixture.WantExit(t, got, 0)
			fixture.WantLine(t, got, test.line)
		})
	}
}

// locks are derivations, and one that makes or replaces the locks of others, whose names it knows. That of "stale" is made
// by Nix itself, as root, when it builds "leading".
const locks = `let
  make = name: script: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/nix/var/nix/profiles/default/bin"; args = [ "-c" script ]; };
  lock = of: builtins.unsafeDiscardStringContext of.outPath + ".lock";
in rec {
  folder = make "folder" "echo > $out";
  link = make "link" "echo > $out";
  stale = make "stale" "echo > $out";
  leading = make "leading" "echo > $out";
  attack = make "attack" "mkdir ${lock folder}; ln -s /etc/passwd ${lock link}; ln -s ${lock stale} ${lock leading}; echo > $out";
}`

// TestLocksOfBuilder runs a job with a build that takes the locks of others. The next job of the store can build these.
func TestLocksOfBuilder(t *testing.T) { fixture.OnEngines(t, locksOfBuilder) }

func locksOfBuilder(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(s *server.Settings) { s.Store = stores.Repository })
	name := "locks-" + strings.ToLower(rand.Text()[:10])
	if err := fixture.Env.Git.Commit(name, "main", map[string]string{"default.nix": locks}); err != nil {
		t.Fatal(err)
	}
	url := fixture.Env.Git.Public + "/" + name
	fixture.WantExit(t, fixture.Do(t, s, fixture.Build(url, "sh -c 'nix-build --no-out-link -A attack && nix-build --no-out-link -A leading'")), 0)
	for _, attr := range []string{"folder", "link", "stale"} {
		// Without the limit, a build that waits for its lock would never end.
		fixture.WantExit(t, fixture.Do(t, s, fixture.Build(url, "sh -c 'timeout 100 nix-build --no-out-link -A "+attr+"'")), 0)
	}
}

// TestIgnoredSettings runs a command with settings that only the request or the operator may set.
func TestIgnoredSettings(t *testing.T) {
	t.Parallel()
	const settings = " --option substituters http://one.invalid --option build-dir /tmp --option trusted-public-keys one:YQ== "
	expression := "'" + fixture.Derivation("settings", "echo > $out") + "'"
	for _, line := range []string{"nix-build --no-out-link" + settings + "-E " + expression, "nix build --no-link --impure" + settings + "--expr " + expression} {
		got := fixture.Do(t, fixture.Env.Server, fixture.Command(line))
		for setting, advice := range map[string]string{
			"substituters":        "use buildOptions.substituters",
			"trusted-public-keys": "use buildOptions.trustedPublicKeys",
			"build-dir":           "the operator of the builder can set it (IGLU_NIX_CONF_FILE)",
		} {
			fixture.WantLine(t, got, "iglu: warning: Nix ignored the setting "+setting+", because the command's user is not trusted: "+advice)
		}
	}
}
