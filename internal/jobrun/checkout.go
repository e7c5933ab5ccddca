package jobrun

import (
	"fmt"
	"slices"
	"strings"

	"iglu.sh/builder/internal/lazyregexp"
)

const (
	branchPrefix = "refs/heads/"
	tagPrefix    = "refs/tags/"
)

// fullID matches a commit's id (SHA-1 or SHA-256), and shortID what may be the beginning of one.
var (
	fullID  = lazyregexp.New(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	shortID = lazyregexp.New(`^[0-9a-fA-F]{4,63}$`)
)

// checkOut checks out a ref in sourceDir: a branch, a tag, a full ref such as refs/heads/main, or a
// commit's id. If a branch and a tag have the same name, it is the branch. An empty ref is the default
// branch, which the clone has checked out. It returns the commit, or says what is wrong and returns an
// exit code.
func (g git) checkOut(ref string) (commit string, code int) {
	if ref == "" {
		if commit = g.commit("HEAD"); commit == "" {
			return "", g.noDefault()
		}
		return commit, 0
	}
	name := g.find(ref)
	if name == "" {
		if name, code = g.fetchRef(ref); code != 0 {
			return "", code
		}
	}
	if commit = g.commit(name); commit == "" {
		sayWhy("", "%s of %s is no commit", ref, g.repository)
		return "", exitGit
	}
	if strings.HasPrefix(name, branchPrefix) {
		code = g.in("symbolic-ref", "HEAD", name)
	} else {
		code = g.in("update-ref", "--no-deref", "HEAD", commit)
	}
	if code == 0 {
		code = g.in("reset", "--quiet", "--hard")
	}
	if code != 0 {
		sayWhy("", "could not check out %s (%s)", ref, g.because(code))
	}
	return commit, code
}

// candidates returns the full refs that a ref can mean, in the order of preference.
func candidates(ref string) []string {
	if strings.HasPrefix(ref, "refs/") {
		return []string{ref}
	}
	return []string{branchPrefix + ref, tagPrefix + ref, "refs/" + ref}
}

// find looks for ref in the clone. It returns a full ref, a commit's id, or "".
func (g git) find(ref string) string {
	if fullID().MatchString(ref) && g.commit(ref) != "" {
		return ref
	}
	for _, name := range candidates(ref) {
		if g.in("show-ref", "--quiet", "--verify", name) == 0 {
			return name
		}
	}
	return ""
}

// fetchRef fetches a ref that the clone does not have, and returns it as find does.
func (g git) fetchRef(ref string) (name string, code int) {
	refs, code := g.refs()
	if code != 0 {
		sayWhy(checkSource, "could not list the branches of %s (%s)", g.repository, g.because(code))
		return "", code
	}
	isThere := func(name string) bool { return slices.Contains(refs, name) }
	names := candidates(ref)
	switch i := slices.IndexFunc(names, isThere); {
	case i >= 0:
		name = names[i]
		code = g.in(slices.Concat([]string{"fetch", "--quiet"}, g.shallow(), []string{"--update-head-ok", "origin", "+" + name + ":" + name})...)
	case fullID().MatchString(ref):
		name = ref
		code = g.in(slices.Concat([]string{"fetch", "--quiet"}, g.shallow(), []string{"origin", ref})...)
	case shortID().MatchString(ref):
		sayWhy("Check git.branch.", "%s is no branch and no tag of %s; if a commit is meant, give its full id", ref, g.repository)
		return "", exitGit
	default:
		sayWhy("Check git.branch.", "%s has no branch and no tag %s; %s", g.repository, ref, theseAreThere(refs))
		return "", exitGit
	}
	if code != 0 {
		sayWhy(checkSource, "could not fetch %s of %s (%s)", ref, g.repository, g.because(code))
	}
	return name, code
}

// noDefault says that there is no default branch, and returns an exit code.
func (g git) noDefault() int {
	refs, code := g.refs()
	if code != 0 {
		sayWhy("", "the repository has no commit to build")
		return code
	}
	sayWhy("Name a branch that is there in git.branch.", "the default branch of %s does not exist; %s", g.repository, theseAreThere(refs))
	return exitGit
}

// maxNamed is how many branches a message lists if a branch is missing.
const maxNamed = 10

// theseAreThere lists the branches among refs, for a message.
func theseAreThere(refs []string) string {
	var branches []string
	for _, ref := range refs {
		if branch, ok := strings.CutPrefix(ref, branchPrefix); ok {
			branches = append(branches, branch)
		}
	}
	if len(branches) == 0 {
		return "it is empty"
	}
	more := ""
	if n := len(branches) - maxNamed; n > 0 {
		branches, more = branches[:maxNamed], fmt.Sprintf(" and %d more", n)
	}
	return "these branches are there: " + strings.Join(branches, ", ") + more
}
