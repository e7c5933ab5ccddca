package main

import (
	"crypto/rand"
	"strings"
	"testing"

	"iglu.sh/builder/orchestrator"
)

// TestUser looks at who a job's command is.
func TestUser(t *testing.T) { onEngines(t, jobUser) }

func jobUser(t *testing.T, e *site) {
	s := e.server(t, func(*settings) {})
	got := do(t, s, command(`sh -c 'echo "uid $(id -u) $(id -un) groups $(id -G) home $HOME"; grep Cap /proc/self/status; `+
		`echo written > /dev/stdout; cat < /dev/stdout; touch $HOME/mine /source/mine /tmp/mine && nix store info'`))
	wantExit(t, got, 0)
	wantLine(t, got, "uid 1000 iglu groups 1000 home /home/iglu")
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
		wantLine(t, got, set+":\t0000000000000000")
	}
	wantLine(t, got, "written")
	wantLine(t, got, "Permission denied") // to read what others print
	wantLine(t, got, "Trusted: 0")

	s = e.server(t, func(s *settings) { s.jobUser = orchestrator.UserRoot })
	got = do(t, s, command(`sh -c 'echo "uid $(id -u)"; nix store info'`))
	wantExit(t, got, 0)
	wantLine(t, got, "uid 0")
	wantLine(t, got, "Store URL: local")
}

// flakeOfUser is one whose default package is a program, with a check, a shell, and an input.
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

// TestCommandsOfUser runs what people run, as the job's user.
func TestCommandsOfUser(t *testing.T) { onEngines(t, commandsOfUser) }

func commandsOfUser(t *testing.T, e *site) {
	g := &world.git
	s := e.storeServer(t, func(*settings) {})
	publish := func(hello string) string {
		name := "user-" + strings.ToLower(rand.Text()[:10])
		if err := g.commit(name, "main", map[string]string{
			"flake.nix":   strings.Replace(flakeOfUser, "HELLO", hello, 1),
			"default.nix": `let here = builtins.fetchGit { url = ./.; }; in ` + derivation("fetched", "echo fetched ${here.rev}; echo > $out"),
		}); err != nil {
			t.Fatal(err)
		}
		return name
	}
	public, private, ssh := publish(g.public+"/hello"), publish(g.private+"/hello"), publish(g.ssh+"/hello")
	for _, test := range []struct {
		name string
		job  job
		line string
	}{
		{"run", build(g.public+"/"+public, "nix run"), "the program runs as 1000"},
		{"shell", build(g.public+"/"+public, "nix shell -c program"), "the program runs as 1000"},
		{"flake check", build(g.public+"/"+public, "nix flake check -L"), "the check runs"},
		{"remote input", build(g.public+"/"+public, "nix build -L .#hello"), hello},
		{"fetchGit", build(g.public+"/"+public, "nix-build"), "fetched "},
		{"private input over http", g.withKey(build(g.private+"/"+private, "nix build -L .#hello"), gitPassword), hello},
		{"private input over ssh", g.withKey(build(g.ssh+"/"+ssh, "nix build -L .#hello"), g.key), hello},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := do(t, s, test.job)
			wantExit(t, got, 0)
			wantLine(t, got, test.line)
		})
	}
}

// TestIgnoredSettings has a command give settings that only the request or the operator may.
func TestIgnoredSettings(t *testing.T) {
	t.Parallel()
	const settings = " --option substituters http://one.invalid --option build-dir /tmp --option trusted-public-keys one:YQ== "
	expression := "'" + derivation("settings", "echo > $out") + "'"
	for _, line := range []string{"nix-build --no-out-link" + settings + "-E " + expression, "nix build --no-link --impure" + settings + "--expr " + expression} {
		got := do(t, world.server, command(line))
		for setting, advice := range map[string]string{
			"substituters":        "use buildOptions.substituters",
			"trusted-public-keys": "use buildOptions.trustedPublicKeys",
			"build-dir":           "the operator of the builder can set it",
		} {
			wantLine(t, got, "iglu: warning: Nix ignored the setting "+setting+", because the command's user is not trusted: "+advice)
		}
	}
}
