package jobrun

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestClone clones a repository, with one process of git. Each of its branches is a branch of the clone, and a later fetch
// works.
func TestClone(t *testing.T) {
	program, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	source, clone, calls := filepath.Join(folder, "source"), filepath.Join(folder, "clone"), filepath.Join(folder, "calls")
	environ := append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	run := func(dir string, args string) string {
		t.Helper()
		command := exec.Command(program, append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@b"}, strings.Fields(args)...)...)
		command.Env = environ
		output, err := command.Output()
		if err != nil {
			t.Fatalf("git %s: %v", args, err)
		}
		return strings.TrimSpace(string(output))
	}
	run(folder, "init --quiet --initial-branch=main "+source)
	run(source, "commit --quiet --allow-empty --message=one")
	run(source, "branch side")

	counting := fmt.Sprintf("#!/bin/sh\necho \"$*\" >> '%s'\nexec '%s' \"$@\"\n", calls, program)
	if err := os.WriteFile(filepath.Join(folder, "git"), []byte(counting), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
	c := newChildren(func() {})
	g := git{runner: runner{children: c, user: rootUser(), environ: environ}, dir: clone, repository: source,
		watch: watchFetch(time.Hour, func() {}), said: &gitOutput{to: os.Stdout}}
	code := g.clone("file://"+source, "")
	c.close() // otherwise it collects the processes of run, too
	if code != 0 {
		t.Fatalf("git has ended with %d", code)
	}
	if text, err := os.ReadFile(calls); err != nil || strings.Count(string(text), "\n") != 1 {
		t.Errorf("git was run more than once, %v:\n%s", err, text)
	}
	if diff := cmp.Diff("main\nside", run(clone, "for-each-ref --format=%(refname:short) refs/heads")); diff != "" {
		t.Errorf("its branches (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff("+refs/heads/*:refs/remotes/origin/*", run(clone, "config --get-all remote.origin.fetch")); diff != "" {
		t.Errorf("what is fetched later (-want +got):\n%s", diff)
	}
	run(source, "commit --quiet --allow-empty --message=two")
	run(clone, "fetch --quiet origin")
	if diff := cmp.Diff(run(source, "rev-parse main"), run(clone, "rev-parse origin/main")); diff != "" {
		t.Errorf("after a later fetch (-want +got):\n%s", diff)
	}
}
