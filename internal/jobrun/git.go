package jobrun

import (
	"cmp"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// git runs git for the source.
type git struct {
	runner
	repository string // as the job names it
	depth      string // of the history that is fetched, in commits; empty: all of it
	watch      *fetchWatch
	said       *gitOutput
}

// exitGit is git's exit code where it has said what is wrong.
const exitGit = 128

func (g git) run(args ...string) int {
	return g.watched(func() int {
		return g.said.of(func(to *os.File) int { return g.runner.run(append([]string{"git"}, args...), "/", to, to) })
	})
}

// because returns why the latest git has failed, as far as it was said.
func (g git) because(code int) string {
	return cmp.Or(g.said.why(), fmt.Sprintf("git exited with %d", code))
}

// in runs git in the source.
func (g git) in(args ...string) int { return g.run(append([]string{"-C", sourceDir}, args...)...) }

// output runs git in the source and returns what it prints, without line ends.
func (g git) output(args ...string) (text string, code int) {
	code = g.watched(func() (code int) {
		argv := append([]string{"git", "-C", sourceDir}, args...)
		return g.said.of(func(to *os.File) int {
			text, code = g.runner.outputOf(argv, to)
			return code
		})
	})
	return text, code
}

// watched runs a git unless there is no time left, and returns its exit code.
func (g git) watched(run func() int) int {
	if g.watch.over() {
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

// shallow returns the option that bounds the history, if it is bounded.
func (g git) shallow() []string {
	if g.depth == "" {
		return nil
	}
	return []string{"--depth=" + g.depth}
}

// ownBranches has each branch of the repository be one of the clone, too: builtins.fetchGit finds
// no others by their names.
const ownBranches = "+refs/heads/*:refs/heads/*"

// clone fetches the repository's branches and tags with their history, and checks the default
// branch out unless another is wanted. With a bounded history it fetches that branch alone.
// The repository comes after "--", so that one that begins with a dash is none of the options.
func (g git) clone(repository, ref string) int {
	args := append([]string{"-c", "advice.detachedHead=false", "clone"}, g.shallow()...)
	if g.depth == "" {
		args = append(args, "--config=remote.origin.fetch="+ownBranches)
	}
	if ref != "" {
		args = append(args, "--no-checkout")
	}
	say("cloning %s", repository)
	if code := g.run(append(args, "--", repository, sourceDir)...); code != 0 || g.depth != "" {
		return code
	}
	// Later it would be in the way: git does not fetch into a branch that is checked out.
	return g.in("config", "--unset", "remote.origin.fetch", "^"+regexp.QuoteMeta(ownBranches)+"$")
}

// commit returns the commit that a ref or an id is in the clone, or nothing.
func (g git) commit(revision string) string {
	commit, code := g.output("rev-parse", "--quiet", "--verify", revision+"^{commit}")
	if code != 0 {
		return ""
	}
	return commit
}

// refs returns the refs of the repository, in order.
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
