//go:build integration

package source

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
	"iglu.sh/builder/test/kit/gitserver"
)

// addSubmodule adds a submodule to a repository, at the commit of another repository.
func addSubmodule(t *testing.T, repository, path, other string) error {
	t.Helper()
	commit := fixture.Head(t, fixture.Build("/"+other, ""))
	return errors.Join(
		fixture.GitIn(repository, "update-index", "--add", "--cacheinfo", "160000,"+commit+","+path),
		fixture.GitIn(repository, "commit", "--quiet", "--message=submodule"))
}

// TestSubmodules clones repositories with submodules that are available and others that are not. The build continues
// in both cases.
func TestSubmodules(t *testing.T) { fixture.OnEngines(t, submodules) }

func submodules(t *testing.T, e *fixture.Engine) {
	g := &fixture.Env.Git
	s := e.Server(t, func(*server.Settings) {})
	private, err := url.Parse(g.Private)
	if err != nil {
		t.Fatal(err)
	}
	module := func(path, url string) string {
		return fmt.Sprintf("[submodule %q]\n\tpath = %s\n\turl = %s\n", path, path, url)
	}
	tests := []struct {
		name, modules string
		paths         []string
		lines         []string
		command       string
	}{
		{"in a flake", module("good", "../hello"), []string{"good"}, []string{"seen: A package"}, `sh -c 'echo "seen: $(nix eval --raw .?submodules=1#seen)"'`},
		{"over ssh, with a token, long", module("good", "ssh://"+private.Hostname()+"/hello"), []string{"good"}, []string{"A package that needs nothing"}, "env cat good/flake.nix"},
		{"some cannot be had", module("bad", "../nothing") + module("good", "../hello"), []string{"bad", "good"},
			[]string{"iglu: warning: the submodule bad could not be fetched", "A package that needs nothing"}, "env cat good/flake.nix"},
		{"one has no address", module("good", "../hello"), []string{"good", "unknown"},
			[]string{"iglu: warning: the submodule unknown could not be fetched", "A package that needs nothing"}, "env cat good/flake.nix"},
		// In the long suite also:
		{"beside it", module("good", "../hello"), []string{"good"}, []string{"A package that needs nothing"}, "env cat good/flake.nix"},
		{"over ssh, with a token", module("good", "git@"+private.Hostname()+":hello"), []string{"good"}, []string{"A package that needs nothing"}, "env cat good/flake.nix"},
		{"none has", "", []string{"unknown"}, []string{"built"}, "env echo built"},
	}
	for _, test := range tests[:fixture.Size(4, len(tests))] {
		t.Run(test.name, func(t *testing.T) {
			repository := "submodules-" + e.Name + "-" + strings.NewReplacer(" ", "-", ",", "").Replace(test.name)
			files := map[string]string{"flake.nix": `{ outputs = _: { seen = builtins.substring 0 9 (builtins.elemAt (builtins.split "description = \"" (builtins.readFile ./good/flake.nix)) 2); }; }`}
			if test.modules != "" {
				files[".gitmodules"] = test.modules
			}
			if err := g.Commit(repository, "main", files); err != nil {
				t.Fatal(err)
			}
			for _, path := range test.paths {
				if err := addSubmodule(t, repository, path, "hello"); err != nil {
					t.Fatal(err)
				}
			}
			got := fixture.Do(t, s, g.WithKey(fixture.Build(g.Private+"/"+repository, test.command), fixture.GitPassword))
			fixture.WantExit(t, got, 0)
			for _, line := range test.lines {
				fixture.WantLine(t, got, line)
			}
		})
	}
}

// TestSubmodulesAreWhole compares the source of a flake, including submodules, with that in a clone made by hand.
func TestSubmodulesAreWhole(t *testing.T) { fixture.OnEngines(t, submodulesAreWhole) }

func submodulesAreWhole(t *testing.T, e *fixture.Engine) {
	g := &fixture.Env.Git
	whole := "whole-" + e.Name // different for each engine's test
	if err := errors.Join(
		g.Commit(whole, "main", map[string]string{
			".gitmodules": "[submodule \"inner\"]\n\tpath = inner\n\turl = ../hello\n",
			"flake.nix":   `{ outputs = { self }: { source = "${self} ${builtins.hashFile "sha256" ./inner/flake.nix} ${toString self.revCount}"; }; }`,
		}),
		addSubmodule(t, whole, "inner", "hello"),
	); err != nil {
		t.Fatal(err)
	}
	const look = `echo "source $(nix --extra-experimental-features "nix-command flakes" eval --raw ".?submodules=1#source")"`
	want := e.Docker(t, "run", "--rm", fixture.Env.Image, "bash", "-ec", "git clone --quiet --recurse-submodules "+g.Public+"/"+whole+" /source; cd /source; "+look)
	got := fixture.Do(t, e.Server(t, func(*server.Settings) {}), fixture.Build(g.Public+"/"+whole, "sh -c '"+look+"'"))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, want[strings.LastIndex(want, "source /nix/store/"):])
}

// TestLargeFiles clones a repository with a file in Git LFS, and one with that repository as a submodule. If the job image
// has git-lfs, the file is fetched with the job's credentials. Otherwise a line reports that git-lfs is missing.
func TestLargeFiles(t *testing.T) { fixture.OnEngines(t, largeFiles) }

func largeFiles(t *testing.T, e *fixture.Engine) {
	const content = "what is large"
	id := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
	pointer := fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", id, len(content))
	g := &fixture.Env.Git
	inner, outer := "large-"+e.Name, "large-outer-"+e.Name // different for each engine's test
	if err := g.Commit(inner, "main", map[string]string{
		".gitattributes": "*.txt text\n", "sub/.gitattributes": "*.bin filter=lfs -text\n", "sub/big.bin": pointer, "sub/other.bin": pointer, "small.txt": "version",
		"flake.nix": "{ outputs = _: { seen = builtins.readFile ./sub/big.bin; }; }",
	}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		g.Commit(outer, "main", map[string]string{".gitmodules": "[submodule \"in\"]\n\tpath = deps/a b\n\turl = ../" + inner + "\n"}),
		addSubmodule(t, outer, "deps/a b", inner),
	); err != nil {
		t.Fatal(err)
	}
	remote, err := g.Serve(&gitserver.LFS{Server: g.PrivateServer(), Objects: map[string]string{id: content}})
	if err != nil {
		t.Fatal(err)
	}
	outside := g.WithKey(fixture.Build(remote+"/"+outer, `sh -c 'echo "file: $(cat "deps/a b/sub/big.bin")"'`), fixture.GitPassword)
	job := g.WithKey(fixture.Build(remote+"/"+inner, `sh -c 'echo "file: $(cat sub/big.bin)"; echo "in a flake: $(nix eval --raw .#seen)"'`), fixture.GitPassword)

	without := e.Server(t, func(*server.Settings) {})
	got := fixture.Do(t, without, job)
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "iglu: warning: the job image has no git-lfs, so the build sees a pointer in place of sub/big.bin, of 2 in all")
	got = fixture.Do(t, without, outside)
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "iglu: warning: the job image has no git-lfs, so the build sees a pointer in place of deps/a b/sub/big.bin, of 2 in all")

	image := e.With(t, fixture.BuildTool(t, "github.com/git-lfs/git-lfs/v3"), "git-lfs")
	with := e.Server(t, func(s *server.Settings) { s.JobImage = image })
	got = fixture.Do(t, with, job)
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "file: "+content)
	fixture.WantLine(t, got, "in a flake: "+content)
	got = fixture.Do(t, with, outside)
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "file: "+content)
}
