package jobrun

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/schemas"
)

// Transports that git may use. "ext" runs any command and is in neither. A build
// may take inputs from paths of its own container, a clone may not.
const (
	cloneProtocols = "GIT_ALLOW_PROTOCOL=git:http:https:ssh"
	buildProtocols = "GIT_ALLOW_PROTOCOL=file:git:http:https:ssh"
)

// fetch puts the source into sourceDir and says which commit it is.
func fetch(job jobenv.Job, r runner, t teller) int {
	if err := errors.Join(os.MkdirAll(sourceDir, 0o755), r.user.own(sourceDir)); err != nil {
		say("cannot make a folder for the source: %v", err)
		return exitInternal
	}
	if there, err := os.ReadDir(sourceDir); err != nil || len(there) > 0 {
		say("the job image has something in %s, where the source is to go", sourceDir)
		return exitInternal
	}
	if job.NoClone == "true" {
		return 0
	}
	t.phase(schemas.Fetch)
	git := git{r.with(cloneProtocols)}
	if code := git.clone(repositoryAs(job.Repository, job.GitUsername), job.Branch); code != 0 {
		say("could not clone %s (git exited with %d)", job.Repository, code)
		return code
	}
	if code := git.submodules(); code != 0 {
		say("could not fetch the submodules (git exited with %d)", code)
		return code
	}
	commit, code := git.output("rev-parse", "--verify", "HEAD")
	if code != 0 {
		say("the repository has no commit to build")
		return code
	}
	branch := job.Branch
	if branch == "" {
		branch = "the default branch"
	}
	say("commit %s of %s", commit, branch)
	t.Note(jobwire.Note{Commit: commit})
	return 0
}

// repositoryAs names the user in an ssh URL that names none: without one, ssh would
// ask as the container's user.
func repositoryAs(repository, user string) string {
	u, err := url.Parse(repository)
	if err != nil || u.Scheme != "ssh" || u.User != nil {
		return repository
	}
	if user == "" {
		user = defaultUser
	}
	u.User = url.User(user)
	return u.String()
}

type git struct{ runner }

func (g git) run(args ...string) int {
	return g.runner.run(append([]string{"git"}, args...), "/", os.Stdout, os.Stderr)
}

// clone fetches one commit of one branch. A value that begins with a dash stays a
// value: the branch is part of its option, the repository comes after "--".
func (g git) clone(repository, branch string) int {
	args := []string{"-c", "advice.detachedHead=false", "clone", "--depth=1"}
	if branch != "" {
		args = append(args, "--branch="+branch)
	}
	say("cloning %s", repository)
	return g.run(append(args, "--", repository, sourceDir)...)
}

// submodules fetches them, when there are any: shallow, or whole from a server that
// does not give out a single commit.
func (g git) submodules() int {
	if _, err := os.Stat(filepath.Join(sourceDir, ".gitmodules")); err != nil {
		return 0
	}
	update := []string{"-C", sourceDir, "submodule", "update", "--init", "--recursive"}
	if g.run(append(update, "--depth=1")...) == 0 {
		return 0
	}
	say("trying again with the submodules' whole history")
	return g.run(update...)
}

// output runs git in the source and returns what it prints, without line ends.
func (g git) output(args ...string) (string, int) {
	return g.runner.output(append([]string{"git", "-C", sourceDir}, args...)...)
}
