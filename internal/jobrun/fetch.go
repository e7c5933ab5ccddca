package jobrun

import (
	"cmp"
	"errors"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/schemas"
)

// The transports that git may use. Neither list has "ext", which runs any command. A build may fetch
// inputs from files of its container; the clone may not.
const (
	cloneProtocols = "GIT_ALLOW_PROTOCOL=git:http:https:ssh"
	buildProtocols = "GIT_ALLOW_PROTOCOL=file:git:http:https:ssh"
)

// checkSource is the advice if the source cannot be fetched.
const checkSource = "Check git.repository and git.gitKey, and that the job's container can reach the host."

// fetch fetches the source into sourceDir and reports its commit. If it fails, it says why and returns
// an exit code that is not 0.
func fetch(job jobenv.Job, r runner, t reporter) int {
	if err := errors.Join(os.MkdirAll(sourceDir, 0o755), r.user.own(sourceDir)); err != nil {
		sayWhy("", "cannot make a folder for the source: %v", err)
		return exitInternal
	}
	if there, err := os.ReadDir(sourceDir); err != nil || len(there) > 0 {
		sayWhy("Use another job image (IGLU_JOB_IMAGE).", "%s of the job image is not empty; the source is fetched into this folder", sourceDir)
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
	g := git{runner: r.with(cloneProtocols), dir: sourceDir, repository: job.Repository, depth: job.GitDepth,
		watch: watchFetch(timeout, func() { r.children.signalAll(unix.SIGKILL) }), said: &gitOutput{to: os.Stdout}}
	branch := refOf(job.Branch)
	if code := g.clone(repositoryAs(job.Repository, job.GitUsername), branch); code != 0 {
		sayWhy(checkSource, "could not clone %s (%s)", job.Repository, g.because(code))
		return code
	}
	commit, code := g.checkOut(branch)
	if code != 0 {
		return code
	}
	say("commit %s of %s", commit, cmp.Or(branch, "the default branch"))
	t.Send(jobwire.Record{Commit: commit})
	g.submodules()
	g.largeFiles()
	if g.watch.over() {
		why.set("", g.watch.said())
		return exitGit
	}
	return 0
}

// refOf returns the ref that a job names, or "" for the default branch.
func refOf(branch string) string {
	if branch == "HEAD" { // git's name for it
		return ""
	}
	if id := strings.ToLower(branch); fullID().MatchString(id) { // servers know only small letters
		return id
	}
	return branch
}

// repositoryAs adds a user to an ssh URL without one. Otherwise ssh would log in with the name of the
// container's user.
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
