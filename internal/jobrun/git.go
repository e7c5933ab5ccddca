package jobrun

import (
	"cmp"
	"fmt"
	"os"
	"strings"
)

// git runs git for the source.
type git struct {
	runner
	dir        string // where git runs; the source or one of its submodules
	repository string // as the job names it
	depth      string // how many commits of the history are fetched; empty: all
	watch      *fetchWatch
	said       *gitOutput
}

// exitGit is git's exit code after a fatal error.
const exitGit = 128

func (g git) run(args ...string) int {
	return g.watched(func() int {
		return g.said.of(func(to *os.File) int { return g.runner.run(append([]string{"git"}, args...), "/", to, to) })
	})
}

// because returns why the latest git has failed: its error message, or else its exit code.
func (g git) because(code int) string {
	return cmp.Or(g.said.why(), fmt.Sprintf("git exited with %d", code))
}

// in runs git in dir.
func (g git) in(args ...string) int { return g.run(append([]string{"-C", g.dir}, args...)...) }

// output runs git in dir and returns what it prints, without line ends.
func (g git) output(args ...string) (text string, code int) {
	code = g.watched(func() (code int) {
		argv := append([]string{"git", "-C", g.dir}, args...)
		return g.said.of(func(to *os.File) int {
			text, code = g.runner.outputOf(argv, to)
			return code
		})
	})
	return text, code
}

// watched runs git unless the deadline has passed, and returns its exit code.
func (g git) watched(run func() int) int {
	if g.watch.expire() {
		g.said.last = g.watch.said()
		return exitGit
	}
	end := g.watch.begin()
	code := run()
	if killed := end(); killed {
		g.said.last = g.watch.said()
		return exitGit
	}
	return code
}

// shallow returns the option that limits the history, if it is limited.
func (g git) shallow() []string {
	if g.depth == "" {
		return nil
	}
	return []string{"--depth=" + g.depth}
}

// ownBranches makes each branch of the repository a branch of the clone: builtins.fetchGit finds no
// remote branches by name.
const ownBranches = "+refs/heads/*:refs/heads/*"

// clone fetches the repository's branches and tags with their history. It checks out the default branch
// if ref is empty. With a limited history it fetches only one branch. The repository follows "--", so
// that git does not read one that begins with a dash as an option.
func (g git) clone(repository, ref string) int {
	args := []string{"-c", "advice.detachedHead=false"}
	if g.depth == "" {
		// For this command only: git does not fetch into a branch that is checked out, so a later fetch would fail.
		args = append(args, "-c", "remote.origin.fetch="+ownBranches)
	}
	args = append(append(args, "clone"), g.shallow()...)
	if ref != "" {
		args = append(args, "--no-checkout")
	}
	say("cloning %s", repository)
	return g.run(append(args, "--", repository, g.dir)...)
}

// commit returns the id of the commit that a revision means in the clone, or "".
func (g git) commit(revision string) string {
	commit, code := g.output("rev-parse", "--quiet", "--verify", revision+"^{commit}")
	if code != 0 {
		return ""
	}
	return commit
}

// refs returns the refs of the repository, sorted, or an exit code.
func (g git) refs() ([]string, int) {
	list, code := g.output("ls-remote", "--refs", "origin")
	var refs []string
	for line := range strings.Lines(list) {
		if _, ref, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok {
			refs = append(refs, ref)
		}
	}
	return refs, code
}
