//go:build integration

package isolation

import (
	"crypto/rand"
	"strings"
	"testing"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

// TestForeignSystem sends jobs for aarch64. They are refused with a message if the engine's kernel cannot run
// aarch64 programs, and run if an emulator is registered. Then a job for this machine may also build for aarch64.
func TestForeignSystem(t *testing.T) {
	if fixture.System != "x86_64-linux" {
		t.Fatal("this test needs an x86_64 machine: aarch64 is no foreign platform here")
	}
	name := "foreign-" + strings.ToLower(rand.Text()[:10])
	if err := fixture.Env.Git.Commit(name, "main", map[string]string{
		"machine": string(fixture.BuildProgramFor(t, "arm64", "machine")),
		"default.nix": `{ system ? builtins.currentSystem }: let
  program = derivation { name = "program"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/nix/var/nix/profiles/default/bin";
    args = [ "-c" "cp ${./machine} $out; chmod +x $out; exit" ]; };
in derivation { name = "machine"; inherit system; builder = program; }`,
	}); err != nil {
		t.Fatal(err)
	}
	foreign := fixture.Build(fixture.Env.Git.Public+"/"+name, "nix-build --no-out-link")
	foreign.Arch = "aarch64-linux"
	// Other names of the platform, and a job that does not ask for it but has a derivation for it.
	byDocker, derivation := foreign, foreign
	byDocker.Arch = "linux/arm64"
	derivation.Arch, derivation.BuildOptions.Command = "", "nix-build --no-out-link --argstr system aarch64-linux"
	s := fixture.OwnServer(t)

	got := fixture.DoIn(t, schemas.Stack, s, foreign)
	const sentence = "The job is for aarch64-linux, but this builder's engine runs x86_64-linux. To have it run there under an emulator, register one"
	if last := got.Messages[len(got.Messages)-1]; !strings.Contains(last, sentence) || !strings.Contains(last, "install the package qemu-user-static") ||
		!strings.Contains(last, `"buildExitCode":78`) {
		t.Errorf("the last message is %s, want %s", last, sentence)
	}
	if !fixture.EmulateARM64(t) {
		return
	}
	for _, job := range []fixture.Job{foreign, byDocker, derivation} {
		got := fixture.DoIn(t, schemas.Stack, s, job)
		fixture.WantExit(t, got, 0)
		fixture.WantLine(t, got, "built by a program for arm64")
	}
}
