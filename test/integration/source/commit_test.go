//go:build integration

package source

import (
	"archive/tar"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// named is a package whose name contains values from the history of its source.
const named = `{
  outputs = { self }: {
    packages.SYSTEM.default = derivation { name = "rev-${toString (self.revCount or 0)}"; system = "SYSTEM"; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; };
  };
}`

// publishHistory makes a repository with two commits on main, a tag v1 on the first, another branch, and a pull
// request.
var publishHistory = sync.OnceValue(func() error {
	g := &fixture.Env.Git
	git := func(args ...string) error { return fixture.GitIn("history", args...) }
	return errors.Join(
		g.Commit("history", "main", map[string]string{"text": "one", "flake.nix": strings.ReplaceAll(named, "SYSTEM", fixture.System)}),
		git("tag", "--annotate", "--message=one", "v1"),
		g.Commit("history", "other", map[string]string{"text": "other"}),
		g.Commit("history", "pull", map[string]string{"text": "pull"}),
		git("update-ref", "refs/pull/1/head", "pull"),
		git("branch", "--quiet", "-D", "pull"),
		git("config", "uploadpack.allowAnySHA1InWant", "true"),
		fixture.GitIn("history", "checkout", "--quiet", "main"),
		g.Overwrite("history", map[string]string{"text": "two"}),
		git("update-server-info"),
	)
})

func history(t *testing.T) (repository string) {
	t.Helper()
	if err := publishHistory(); err != nil {
		t.Fatal(err)
	}
	return fixture.Env.Git.Public + "/history"
}

func idOf(t *testing.T, repository, revision string) string {
	t.Helper()
	id, err := exec.Command("git", "-C", filepath.Join(fixture.Env.Git.Root, repository), "rev-parse", revision+"^{commit}").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(id))
}

// look is a command that prints the checked-out commit.
const look = `sh -c 'echo "text $(cat text) at $(git symbolic-ref --quiet HEAD || echo none)"'`

// TestCommits specifies the commit of a job in every way.
func TestCommits(t *testing.T) { fixture.OnEngines(t, commits) }

func commits(t *testing.T, e *fixture.Engine) {
	repository := history(t)
	servers := []struct {
		name string
		*fixture.Server
	}{
		{"", e.Server(t, func(*server.Settings) {})},
		{", shallow", e.Server(t, func(s *server.Settings) { s.GitDepth = 1 })},
	}
	tests := []struct{ name, branch, line, revision string }{
		{"default", "", "text two at refs/heads/main", "main"},
		{"branch", "other", "text other at refs/heads/other", "other"},
		{"tag", "v1", "text one at none", "v1"},
		{"id of a pull request", idOf(t, "history", "refs/pull/1/head"), "text pull at none", "refs/pull/1/head"},
		// In the long suite also:
		{"default by its name", "HEAD", "text two at refs/heads/main", "main"},
		{"pull request", "refs/pull/1/head", "text pull at none", "refs/pull/1/head"},
		{"whole branch", "refs/heads/other", "text other at refs/heads/other", "other"},
		{"whole tag", "refs/tags/v1", "text one at none", "v1"},
		{"id", idOf(t, "history", "v1"), "text one at none", "v1"},
	}
	for _, test := range tests[:fixture.Size(4, len(tests))] {
		for _, s := range servers {
			t.Run(test.name+s.name, func(t *testing.T) {
				j := fixture.Build(repository, look)
				j.Git.Branch = test.branch
				got := fixture.Do(t, s.Server, j)
				fixture.WantExit(t, got, 0)
				fixture.WantLine(t, got, test.line)
				fixture.WantLine(t, got, "iglu: commit "+idOf(t, "history", test.revision))
			})
		}
	}
}

// TestNoSuchCommit sends jobs for commits and branches that do not exist.
func TestNoSuchCommit(t *testing.T) { fixture.OnEngines(t, noSuchCommit) }

func noSuchCommit(t *testing.T, e *fixture.Engine) {
	repository := history(t)
	s := e.Server(t, func(*server.Settings) {})
	g := &fixture.Env.Git
	trunk, empty := "trunk-"+e.Name, "empty-"+e.Name // different for each engine's test
	if err := errors.Join(
		g.Commit(trunk, "trunk", map[string]string{"text": "trunk"}),
		fixture.GitIn(trunk, "checkout", "--quiet", "--detach", "trunk"),
		fixture.GitIn(trunk, "symbolic-ref", "HEAD", "refs/heads/master"),
		g.Commit(empty, "main", nil),
	); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, repository, branch, line string }{
		{"branch", repository, "gone", "has no branch and no tag gone; these branches are there: main, other"},
		{"id", repository, strings.Repeat("12", 20), "could not fetch " + strings.Repeat("12", 20)},
		{"default branch", g.Public + "/" + trunk, "", "the default branch of " + g.Public + "/" + trunk + " does not exist; these branches are there: trunk"},
		// In the long suite also:
		{"whole ref", repository, "refs/heads/gone", "has no branch and no tag refs/heads/gone; these branches are there: main, other"},
		{"an option", repository, "--upload-pack=touch /tmp/owned", "has no branch and no tag --upload-pack=touch /tmp/owned"},
		{"an expression", repository, "main~1", "has no branch and no tag main~1"},
		{"short id", repository, idOf(t, "history", "v1")[:10], "is no branch and no tag of " + repository + "; if a commit is meant, give its full id"},
		{"any", g.Public + "/" + empty, "", "the default branch of " + g.Public + "/" + empty + " does not exist; it is empty"},
	}
	for _, test := range tests[:fixture.Size(3, len(tests))] {
		t.Run(test.name, func(t *testing.T) {
			j := fixture.Build(test.repository, look)
			j.Git.Branch = test.branch
			got := fixture.Do(t, s, j)
			fixture.WantExit(t, got, 128)
			fixture.WantLine(t, got, test.line)
		})
	}
}

// TestHistory compares the output of Nix and git in a job's clone with that in a clone made by hand, with a local
// branch for each branch of the repository.
func TestHistory(t *testing.T) { fixture.OnEngines(t, historyIsWhole) }

func historyIsWhole(t *testing.T, e *fixture.Engine) {
	repository := history(t)
	s := e.Server(t, func(*server.Settings) {})
	script := `nix() { command nix --extra-experimental-features "nix-command flakes" "$@"; }
echo "flake $(nix build --no-link --print-out-paths)"
echo "described $(git describe --tags), $(git rev-list --count --all) commits, branches:" $(git for-each-ref --format="%(refname)" refs/heads)
for how in "" "rev = \"` + idOf(t, "history", "v1") + `\";" "ref = \"other\";" "ref = \"refs/tags/v1\";"; do
  echo "fetched $(nix eval --impure --raw --expr "let s = builtins.fetchGit { url = ./.; $how }; in \"\${s} \${toString s.revCount} \${builtins.readFile (s + \"/text\")}\"")"
done`
	got := fixture.Do(t, s, fixture.Build(repository, "env bash -c '"+script+"'"))
	fixture.WantExit(t, got, 0)
	want := e.Docker(t, "run", "--rm", fixture.Env.Image, "bash", "-ec",
		"git clone --quiet "+repository+" /source; cd /source; git branch --quiet other origin/other\n"+script)
	lines := strings.Split(strings.TrimSpace(want), "\n")
	n := 0
	for _, line := range lines {
		if first, _, _ := strings.Cut(line, " "); first != "flake" && first != "described" && first != "fetched" {
			continue
		}
		n++
		fixture.WantLine(t, got, line)
	}
	if n != 6 || !strings.Contains(want, "-rev-2") {
		t.Errorf("by hand: %s", want)
	}
}

// TestServers clones from every kind of server.
func TestServers(t *testing.T) { fixture.OnEngines(t, servers) }

func servers(t *testing.T, e *fixture.Engine) {
	history(t)
	g := &fixture.Env.Git
	s := e.Server(t, func(*server.Settings) {})
	dumb, err := g.Serve(http.FileServer(http.Dir(g.Root)))
	if err != nil {
		t.Fatal(err)
	}
	// This server requires a password and redirects everything.
	moved, err := g.Serve(fixture.Moved{To: g.PrivateServer(), From: "/moved"})
	if err != nil {
		t.Fatal(err)
	}
	overSSH := g.WithKey(fixture.Build(g.SSH+"/history", look), g.Key)
	overSSH.Git.Branch = "refs/pull/1/head"
	for _, test := range []struct {
		name string
		job  fixture.Job
		line string
	}{
		{"dumb http", fixture.Build(dumb+"/history/.git", look), "text two at refs/heads/main"},
		{"ssh", overSSH, "text pull at none"},
		{"git", fixture.Build(g.Daemon(t)+"/history", look), "text two at refs/heads/main"},
		{"a redirect", g.WithKey(fixture.Build(moved+"/moved/history", look), fixture.GitPassword), "text two at refs/heads/main"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := fixture.Do(t, s, test.job)
			fixture.WantExit(t, got, 0)
			fixture.WantLine(t, got, test.line)
		})
	}
}

// TestQuoting runs a command with every kind of quoting. Nix gets the same arguments as from a shell.
func TestQuoting(t *testing.T) { fixture.OnEngines(t, quoting) }

func quoting(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(*server.Settings) {})
	tests := []struct{ command, want string }{
		{"nix eval --expr '1 # one\n + 2'", "3"},
		{"nix eval --expr \"1 # one\n + 2\"", "3"},
		{`nix eval --raw --expr '"it'\''s"'`, "it's"},
		{`nix eval --raw --expr "\"it's\""`, "it's"},
		{`nix eval --raw --expr '"a  b"'`, "a  b"},
		{`nix eval --raw --expr '"a\nb"'`, "a|b"},
		{`nix eval --raw --expr \"a\"`, "a"},
		{`nix eval --raw --expr '"ünï 枝 🌍"'`, "ünï 枝 🌍"},
		{`nix eval --raw --expr '"#"'`, "#"},
		{`nix eval --raw --expr '"&& | > ; $(x) ^*"'`, "&& | > ; $(x) ^*"},
		{`nix eval --raw --expr '"$HOME ${toString 1} ~"'`, "$HOME 1 ~"},
		{`nix eval --raw --expr '"'"'"'"'`, "'"},
		{"nix eval --impure --raw --expr \"''\n  one\n    two\n''\"", "one|  two"},
	}
	for _, test := range tests[:fixture.Size(5, len(tests))] {
		t.Run(test.command, func(t *testing.T) {
			got := fixture.Do(t, s, fixture.Command(test.command))
			fixture.WantExit(t, got, 0)
			if lines := strings.Join(got.Lines, "|"); !strings.HasSuffix(lines, "|"+test.want) {
				t.Errorf("got %q, want %q at its end", got.Lines, test.want)
			}
		})
	}
}

// TestMovedBranch moves a branch between two jobs that share a store. The second job builds the new commit.
func TestMovedBranch(t *testing.T) { fixture.OnEngines(t, movedBranch) }

func movedBranch(t *testing.T, e *fixture.Engine) {
	g := &fixture.Env.Git
	s := e.Server(t, func(*server.Settings) {})
	moves, follows := "moves-"+e.Name, "follows-"+e.Name // different for each engine's test
	if err := errors.Join(
		g.Commit(moves, "main", map[string]string{"flake.nix": "{ outputs = _: { }; }", "text": "as it was"}),
		g.Commit(follows, "main", map[string]string{"flake.nix": `{
  inputs.other = { url = "git+` + g.Public + "/" + moves + `?ref=main"; };
  outputs = { self, other }: { text = builtins.readFile (other + "/text"); };
}`}),
	); err != nil {
		t.Fatal(err)
	}
	var text atomic.Value // a string
	tarballs, err := g.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		archive := tar.NewWriter(w)
		now := text.Load().(string)
		archive.WriteHeader(&tar.Header{Name: "moves/text", Mode: 0o644, Size: int64(len(now))})
		io.WriteString(archive, now)
		archive.Close()
	}))
	if err != nil {
		t.Fatal(err)
	}
	command := `sh -c 'echo "input: $(nix eval --raw .#text)"; ` +
		`echo "tarball: $(nix eval --impure --raw --expr "builtins.readFile (builtins.fetchTarball \"` + tarballs + `/moves.tar\" + \"/text\")")"; ` +
		`echo "fetched: $(nix eval --impure --raw --expr "builtins.readFile (builtins.fetchGit { url = \"` + g.Public + "/" + moves + `\"; ref = \"main\"; } + \"/text\")")"'`
	for _, now := range []string{"as it was", "as it is"} {
		text.Store(now)
		if now != "as it was" {
			if err := g.Overwrite(moves, map[string]string{"text": now}); err != nil {
				t.Fatal(err)
			}
		}
		got := fixture.Do(t, s, fixture.Build(g.Public+"/"+follows, command))
		fixture.WantExit(t, got, 0)
		fixture.WantLine(t, got, "input: "+now)
		fixture.WantLine(t, got, "tarball: "+now)
		fixture.WantLine(t, got, "fetched: "+now)
	}
}
