//go:build integration

package source

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

// TestSources builds from every kind of source.
func TestSources(t *testing.T) { fixture.OnEngines(t, sources) }

func sources(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(*server.Settings) {})
	const flake = "nix build -L --print-out-paths"
	g := &fixture.Env.Git
	side := fixture.Build(g.Public+"/hello", "nix-build")
	side.Git.Branch = "side"
	byUser := g.WithKey(fixture.Build(strings.Replace(g.Private, "http://", "http://git@", 1)+"/hello", flake), fixture.GitPassword)
	byUser.Git.GitUsername = ""
	defaultUser := g.WithKey(fixture.Build(g.Private+"/hello", flake), fixture.GitPassword)
	defaultUser.Git.GitUsername = ""
	windowsKey := g.WithKey(fixture.Build(g.SSH+"/hello", flake), strings.TrimSpace(strings.ReplaceAll(g.Key, "\n", "\r\n")))
	private := g.WithKey(fixture.Command(flake+" git+"+g.Private+"/hello"), fixture.GitPassword)
	private.Git.Repository = g.Private + "/hello"

	tests := []struct {
		name string
		job  fixture.Job
		line string
	}{
		{"http with credentials", g.WithKey(fixture.Build(g.Private+"/hello", flake), fixture.GitPassword), fixture.Hello},
		{"http as the default user", defaultUser, fixture.Hello},
		{"ssh", g.WithKey(fixture.Build(g.SSH+"/hello", flake), g.Key), fixture.Hello},
		{"branch", side, "side"},
		{"private flake reference", private, fixture.Hello},
		{"1,000 files", fixture.Build(g.Public+"/many", "nix-build"), "counted 1000 files"},
		{"quotes", fixture.Command(`nix eval --raw --expr '"it'\''s " + "\"fine\""'`), `it's "fine"`},
		// In the long suite also:
		{"http", fixture.Build(g.Public+"/hello", flake), fixture.Hello},
		{"http with the user in the URL", byUser, fixture.Hello},
		{"ssh with a key that went through a form", windowsKey, fixture.Hello},
		{"flake reference", fixture.Command(flake + " git+" + g.Public + "/hello"), fixture.Hello},
	}
	for _, test := range tests[:fixture.Size(7, len(tests))] {
		t.Run(test.name, func(t *testing.T) {
			got := fixture.Do(t, s, test.job)
			fixture.WantExit(t, got, 0)
			fixture.WantLine(t, got, test.line)
			if !test.job.Git.NoClone {
				fixture.WantLine(t, got, "iglu: commit "+fixture.Head(t, test.job))
			}
		})
	}
}

// TestFailures checks the exit code and the explaining line that the client gets when a clone or a build fails.
func TestFailures(t *testing.T) { fixture.OnEngines(t, failures) }

func failures(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(*server.Settings) {})
	g := &fixture.Env.Git
	noBranch := fixture.Build(g.Public+"/hello", "nix build")
	noBranch.Git.Branch = "no-such-branch"
	optionBranch := fixture.Build(g.Public+"/hello", "nix build")
	optionBranch.Git.Branch = "--upload-pack=touch /tmp/owned"
	sshNoKey := fixture.Build(g.SSH+"/hello", "nix build")
	sshPassword := g.WithKey(fixture.Build(g.SSH+"/hello", "nix build"), fixture.GitPassword)
	elsewhere, err := g.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, g.Private+r.URL.String(), http.StatusFound)
	}))
	if err != nil {
		t.Fatal(err)
	}
	otherKey := strings.Replace(g.Key, g.KeyLines[0][:20], strings.Repeat("A", 20), 1)

	tests := []struct {
		name         string
		job          fixture.Job
		code         int
		reason, line string // texts that they must contain
	}{
		{"wrong password", g.WithKey(fixture.Build(g.Private+"/hello", "nix build"), "not-the-password"), 128, "Authentication failed", ""},
		{"no private key", sshNoKey, 128, "Permission denied", ""},
		{"password for ssh", sshPassword, 78, "gitKey is not a private key", ""},
		{"no such branch", noBranch, 128, "has no branch and no tag no-such-branch; these branches are there: main, side", ""},
		{"unreachable host", fixture.Build("http://127.0.0.1:1/hello", "nix build"), 128, "Failed to connect", ""},
		{"redirect to another host", g.WithKey(fixture.Build(elsewhere+"/hello", "nix build"), fixture.GitPassword), 128, "could not read Username", "git asks for credentials of another host than the repository's; it gets none"},
		{"failing nix build", fixture.Build(g.Public+"/failing", "nix build -f default.nix"), 1, "about to fail", ""},
		// In the long suite also:
		{"no password", fixture.Build(g.Private+"/hello", "nix build"), 128, "could not read Username", ""},
		{"unreadable private key", g.WithKey(fixture.Build(g.SSH+"/hello", "nix build"), otherKey), 78, "cannot be read", ""},
		{"private key for http", g.WithKey(fixture.Build(g.Private+"/hello", "nix build"), g.Key), 78, "not reached by ssh", ""},
		{"branch like an option", optionBranch, 128, "has no branch and no tag --upload-pack", ""},
		{"no such repository", fixture.Build(g.Public+"/nothing", "nix build"), 128, "not found", ""},
		{"no such host", fixture.Build("http://no-such-host.invalid/hello", "nix build"), 128, "Could not resolve host", ""},
		{"failing nix-build", fixture.Build(g.Public+"/failing", "nix-build"), 1, "about to fail", ""}, // of root, 100
		{"no flake", fixture.Command("nix build"), 1, "flake.nix", ""},
	}
	for _, test := range tests[:fixture.Size(7, len(tests))] {
		t.Run(test.name, func(t *testing.T) {
			got := fixture.Do(t, s, test.job)
			fixture.WantExit(t, got, test.code)
			fixture.WantReason(t, got, test.reason)
			fixture.WantLine(t, got, test.line)
		})
	}
}

// TestSubmodulesAndInputs clones a private repository with a private submodule, and
// builds a flake with a private input on the same host.
func TestSubmodulesAndInputs(t *testing.T) {
	g := &fixture.Env.Git
	modules := "[submodule \"inner\"]\n\tpath = inner\n\turl = ../hello\n"
	if err := g.Commit("outer", "main", map[string]string{
		".gitmodules": modules,
		"default.nix": `import ./inner/answer.nix`,
		"flake.nix": `{ inputs.hello.url = "git+` + g.Private + `/hello"; ` +
			`outputs = { self, hello }: { packages = hello.packages; }; }`,
	}); err != nil {
		t.Fatal(err)
	}
	commit := fixture.Head(t, fixture.Build("/hello", ""))
	if err := fixture.GitIn("outer", "update-index", "--add", "--cacheinfo", "160000,"+commit+",inner"); err != nil {
		t.Fatal(err)
	}
	if err := fixture.GitIn("outer", "commit", "--quiet", "--message=submodule"); err != nil {
		t.Fatal(err)
	}
	got := fixture.Do(t, fixture.Env.Server, g.WithKey(fixture.Build(g.Private+"/outer", "sh -c 'cat inner/flake.nix && nix build -L'"), fixture.GitPassword))
	fixture.WantExit(t, got, 0)
	fixture.WantLine(t, got, "A package that needs nothing but /bin/sh")
	fixture.WantLine(t, got, fixture.Hello)
}

// TestOtherHost builds a flake with an input on another host than the repository's, which asks for credentials too.
// That host does not get the key.
func TestOtherHost(t *testing.T) {
	g := &fixture.Env.Git
	other, err := g.Serve(fixture.PasswordThief{})
	if err != nil {
		t.Fatal(err)
	}
	j := g.WithKey(fixture.Build(g.Private+"/hello", "sh -c 'git ls-remote "+other+"/hello'"), fixture.GitPassword)
	got := fixture.Do(t, fixture.Env.Server, j)
	fixture.WantExit(t, got, 128)
	fixture.WantLine(t, got, "another host than the repository's")
}

// TestNixOptions checks that a request's options become settings of Nix.
func TestNixOptions(t *testing.T) {
	cores, jobs := schemas.Integer(3), schemas.Integer(2)
	j := fixture.Command("nix")
	j.BuildOptions.ExtraArgs = "config show"
	j.BuildOptions.Cores, j.BuildOptions.MaxJobs, j.BuildOptions.KeepGoing = &cores, &jobs, true
	j.BuildOptions.Substituters = []string{"https://one.example.com", "https://two.example.com"}
	j.BuildOptions.TrustedPublicKeys = []string{"one:" + fixture.PublicKey(t), "two:" + fixture.PublicKey(t)}
	// Settings of the store are set for the daemon, unless jobs run as root: see TestForeignKey.
	arrive := []string{"cores = 3", "max-jobs = 2", "keep-going = true", "flakes"}
	got := fixture.Do(t, fixture.Env.Server, j)
	fixture.WantExit(t, got, 0)
	for _, line := range arrive {
		fixture.WantLine(t, got, line)
	}
	got = fixture.Do(t, fixture.ServerWith(t, func(s *server.Settings) { s.JobUser = orchestrator.UserRoot }), j)
	for _, line := range append(arrive, "https://one.example.com https://two.example.com", strings.Join(j.BuildOptions.TrustedPublicKeys, " ")) {
		fixture.WantLine(t, got, line)
	}
}

// TestNixVersionIsAskedOnce checks that the first job finds out the version of the image's Nix, and that the next one
// gets it as a parameter.
func TestNixVersionIsAskedOnce(t *testing.T) {
	s := fixture.ServerWith(t, func(*server.Settings) {})
	environment := func() string {
		c := fixture.Connect(t, s)
		defer c.Conn.Close()
		c.Send(fixture.JSONOf(t, fixture.Command("sh -c 'echo begun; sleep 60'")))
		c.WaitFor(`"begun"`)
		return fixture.Docker(t, "inspect", "--format", "{{range .Config.Env}}{{println .}}{{end}}", s.JobContainer(t))
	}
	if first := environment(); !strings.Contains(first, "IGLU_NIX_VERSION=\n") {
		t.Errorf("the first job gets a version:\n%s", first)
	}
	fixture.WantFree(t, s)
	if second := environment(); !regexp.MustCompile(`(?m)^IGLU_NIX_VERSION=\d+\.\d+`).MatchString(second) {
		t.Errorf("the second job gets no version:\n%s", second)
	}
}
