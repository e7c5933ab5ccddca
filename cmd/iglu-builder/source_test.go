package main

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/schemas"
)

// build is a job that runs a command in a clone of a repository.
func build(repository, line string) job {
	return job{Git: schemas.Git{Repository: repository}, BuildOptions: schemas.BuildOptions{Command: line}}
}

// withKey adds credentials to a job.
func (g *gitWorld) withKey(j job, key string) job {
	j.Git.GitKey, j.Git.RequiresAuth = key, true
	j.Git.GitUsername = gitUser
	if strings.Contains(key, "PRIVATE KEY") {
		j.Git.GitUsername = "root" // the only user of the test's SSH server
	}
	return j
}

// hello is the output of examples/hello; its hash is that of its recipe.
const hello = "hello> building hello"

// TestSources builds from every kind of source.
func TestSources(t *testing.T) { onEngines(t, sources) }

func sources(t *testing.T, e *site) {
	s := e.server(t, func(*settings) {})
	const flake = "nix build -L --print-out-paths"
	g := &world.git
	side := build(g.public+"/hello", "nix-build")
	side.Git.Branch = "side"
	byUser := g.withKey(build(strings.Replace(g.private, "http://", "http://git@", 1)+"/hello", flake), gitPassword)
	byUser.Git.GitUsername = ""
	defaultUser := g.withKey(build(g.private+"/hello", flake), gitPassword)
	defaultUser.Git.GitUsername = ""
	windowsKey := g.withKey(build(g.ssh+"/hello", flake), strings.TrimSpace(strings.ReplaceAll(g.key, "\n", "\r\n")))
	private := g.withKey(command(flake+" git+"+g.private+"/hello"), gitPassword)
	private.Git.Repository = g.private + "/hello"

	tests := []struct {
		name string
		job  job
		line string
	}{
		{"http", build(g.public+"/hello", flake), hello},
		{"http with credentials", g.withKey(build(g.private+"/hello", flake), gitPassword), hello},
		{"http with the user in the URL", byUser, hello},
		{"http as the default user", defaultUser, hello},
		{"ssh", g.withKey(build(g.ssh+"/hello", flake), g.key), hello},
		{"ssh with a key that went through a form", windowsKey, hello},
		{"branch", side, "side"},
		{"flake reference", command(flake + " git+" + g.public + "/hello"), hello},
		{"private flake reference", private, hello},
		{"1,000 files", build(g.public+"/many", "nix-build"), "counted 1000 files"},
		{"quotes", command(`nix eval --raw --expr '"it'\''s " + "\"fine\""'`), `it's "fine"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := do(t, s, test.job)
			wantExit(t, got, 0)
			wantLine(t, got, test.line)
			if !test.job.Git.NoClone {
				wantLine(t, got, "iglu: commit "+head(t, test.job))
			}
		})
	}
}

// head returns the commit that a job is to build.
func head(t *testing.T, j job) string {
	t.Helper()
	name := j.Git.Repository[strings.LastIndex(j.Git.Repository, "/"):]
	branch := j.Git.Branch
	if branch == "" {
		branch = "main"
	}
	commit, err := exec.Command("git", "-C", world.git.root+name, "rev-parse", branch).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(commit))
}

// TestFailures holds what goes wrong with a source or a build against what the
// client is told: an exit code, and a line that explains it.
func TestFailures(t *testing.T) { onEngines(t, failures) }

func failures(t *testing.T, e *site) {
	s := e.server(t, func(*settings) {})
	g := &world.git
	noBranch := build(g.public+"/hello", "nix build")
	noBranch.Git.Branch = "no-such-branch"
	optionBranch := build(g.public+"/hello", "nix build")
	optionBranch.Git.Branch = "--upload-pack=touch /tmp/owned"
	sshNoKey := build(g.ssh+"/hello", "nix build")
	sshPassword := g.withKey(build(g.ssh+"/hello", "nix build"), gitPassword)
	otherKey := strings.Replace(g.key, g.keyLines[0][:20], strings.Repeat("A", 20), 1)

	tests := []struct {
		name string
		job  job
		code int
		line string
	}{
		{"wrong password", g.withKey(build(g.private+"/hello", "nix build"), "not-the-password"), 128, "Authentication failed"},
		{"no password", build(g.private+"/hello", "nix build"), 128, "could not read Username"},
		{"unreadable private key", g.withKey(build(g.ssh+"/hello", "nix build"), otherKey), 78, "cannot be read"},
		{"no private key", sshNoKey, 128, "Permission denied"},
		{"password for ssh", sshPassword, 78, "gitKey is not a private key"},
		{"private key for http", g.withKey(build(g.private+"/hello", "nix build"), g.key), 78, "not reached by ssh"},
		{"no such branch", noBranch, 128, "no-such-branch not found"},
		{"branch like an option", optionBranch, 128, "not found in upstream"},
		{"no such repository", build(g.public+"/nothing", "nix build"), 128, "not found"},
		{"no such host", build("http://no-such-host.invalid/hello", "nix build"), 128, "Could not resolve host"},
		{"unreachable host", build("http://127.0.0.1:1/hello", "nix build"), 128, "Failed to connect"},
		{"failing nix build", build(g.public+"/failing", "nix build -f default.nix"), 1, "about to fail"},
		{"failing nix-build", build(g.public+"/failing", "nix-build"), 1, "about to fail"}, // of root, 100
		{"no flake", command("nix build"), 1, "flake.nix"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := do(t, s, test.job)
			wantExit(t, got, test.code)
			wantLine(t, got, test.line)
		})
	}
}

// TestSubmodulesAndInputs clones a private repository with a private submodule, and
// builds a flake with a private input on the same host.
func TestSubmodulesAndInputs(t *testing.T) {
	g := &world.git
	modules := "[submodule \"inner\"]\n\tpath = inner\n\turl = ../hello\n"
	if err := g.commit("outer", "main", map[string]string{
		".gitmodules": modules,
		"default.nix": `import ./inner/answer.nix`,
		"flake.nix": `{ inputs.hello.url = "git+` + g.private + `/hello"; ` +
			`outputs = { self, hello }: { packages = hello.packages; }; }`,
	}); err != nil {
		t.Fatal(err)
	}
	commit := head(t, build("/hello", ""))
	if err := gitIn("outer", "update-index", "--add", "--cacheinfo", "160000,"+commit+",inner"); err != nil {
		t.Fatal(err)
	}
	if err := gitIn("outer", "commit", "--quiet", "--message=submodule"); err != nil {
		t.Fatal(err)
	}
	got := do(t, world.server, g.withKey(build(g.private+"/outer", "sh -c 'cat inner/flake.nix && nix build -L'"), gitPassword))
	wantExit(t, got, 0)
	wantLine(t, got, "A package that needs nothing but /bin/sh")
	wantLine(t, got, hello)
}

// TestOtherHost has a flake ask another host than the repository's, which wants
// credentials too: it is not given the key.
func TestOtherHost(t *testing.T) {
	g := &world.git
	other, err := g.serve(passwordThief{})
	if err != nil {
		t.Fatal(err)
	}
	j := g.withKey(build(g.private+"/hello", "sh -c 'git ls-remote "+other+"/hello'"), gitPassword)
	got := do(t, world.server, j)
	wantExit(t, got, 128)
	wantLine(t, got, "another host than the repository's")
}

// TestNixOptions sees a request's options arrive as Nix's settings.
func TestNixOptions(t *testing.T) {
	cores, jobs := schemas.Whole(3), schemas.Whole(2)
	j := command("nix")
	j.BuildOptions.ExtraArgs = "config show"
	j.BuildOptions.Cores, j.BuildOptions.MaxJobs, j.BuildOptions.KeepGoing = &cores, &jobs, true
	j.BuildOptions.Substituters = []string{"https://one.example.com", "https://two.example.com"}
	j.BuildOptions.TrustedPublicKeys = []string{"one:YQ==", "two:Yg=="}
	// Those of the store are the daemon's, unless jobs are root; see TestForeignKey.
	arrive := []string{"cores = 3", "max-jobs = 2", "keep-going = true", "flakes"}
	got := do(t, world.server, j)
	wantExit(t, got, 0)
	for _, line := range arrive {
		wantLine(t, got, line)
	}
	got = do(t, serverWith(t, func(s *settings) { s.jobUser = orchestrator.UserRoot }), j)
	for _, line := range append(arrive, "https://one.example.com https://two.example.com", "one:YQ== two:Yg==") {
		wantLine(t, got, line)
	}
}

// TestNixVersionIsAskedOnce has a job find out the version of the image's Nix, and the next
// be told.
func TestNixVersionIsAskedOnce(t *testing.T) {
	s := serverWith(t, func(*settings) {})
	told := func() string {
		c := connect(t, s)
		defer c.conn.Close()
		c.send(jsonOf(t, command("sh -c 'echo begun; sleep 60'")))
		c.waitFor("begun")
		return docker(t, "inspect", "--format", "{{range .Config.Env}}{{println .}}{{end}}", s.containers()[0])
	}
	if first := told(); !strings.Contains(first, "IGLU_NIX_VERSION=\n") {
		t.Errorf("the first job is told a version:\n%s", first)
	}
	wantNoContainers(t, s)
	if second := told(); !regexp.MustCompile(`(?m)^IGLU_NIX_VERSION=\d+\.\d+`).MatchString(second) {
		t.Errorf("the second job is told no version:\n%s", second)
	}
}
