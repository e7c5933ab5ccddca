package jobrun

import (
	"errors"
	"net/url"
	"os"
	"time"

	"golang.org/x/sys/unix"

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

// checkSource is what to do about a source that cannot be had.
const checkSource = "Check git.repository and git.gitKey, and that the job's container can reach the host."

// fetch puts the source into sourceDir and says which commit it is.
func fetch(job jobenv.Job, r runner, t reporter) int {
	if err := errors.Join(os.MkdirAll(sourceDir, 0o755), r.user.own(sourceDir)); err != nil {
		sayWhy("", "cannot make a folder for the source: %v", err)
		return exitInternal
	}
	if there, err := os.ReadDir(sourceDir); err != nil || len(there) > 0 {
		sayWhy("Use another job image (IGLU_JOB_IMAGE).", "the job image has something in %s, where the source is to go", sourceDir)
		return exitInternal
	}
	if job.NoClone == "true" {
		return 0
	}
	t.phase(schemas.Fetch)
	timeout, err := time.ParseDuration(job.FetchTimeout)
	if err != nil {
		sayWhy("", "%v", err)
		return exitInternal
	}
	g := git{runner: r.with(cloneProtocols), repository: job.Repository, depth: job.GitDepth,
		watch: watchFetch(timeout, func() { r.children.signalAll(unix.SIGKILL) }), said: &gitOutput{to: os.Stdout}}
	if code := g.clone(repositoryAs(job.Repository, job.GitUsername), job.Branch); code != 0 {
		sayWhy(checkSource, "could not clone %s (%s)", job.Repository, g.because(code))
		return code
	}
	commit, code := g.checkOut(job.Branch)
	if code != 0 {
		return code
	}
	branch := job.Branch
	if branch == "" {
		branch = "the default branch"
	}
	say("commit %s of %s", commit, branch)
	t.Send(jobwire.Record{Commit: commit})
	g.submodules()
	g.largeFiles()
	if g.watch.over() {
		why.set("", g.watch.said())
		return exitGit
	}
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
