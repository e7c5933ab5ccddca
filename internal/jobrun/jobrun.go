// Package jobrun is what runs inside a job's container, as its PID 1: it fetches
// the source, runs the command in it, pushes what that yields, and exits with the
// command's exit code.
//
// Everything it is told stands in the container's environment (internal/jobenv),
// secrets included. So before anything else it makes itself unreadable to the other
// processes of the container and takes the job out of its environment. What it
// starts gets the rest of the environment: git can ask it for credentials
// (credentials.go), Nix and the build get none.
//
// Whatever it has to say is a line of the job's log that begins with "iglu: ". What it has to
// tell beside the log, Nix's progress among it, goes to the builder as internal/jobwire has
// it.
package jobrun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/jobwire"
)

// Exit codes of a job beside those of the programs it runs: 126 and 127 are what a
// shell answers for a command that cannot be run or found, the others are named in
// BSD's sysexits.h.
const (
	exitUnavailable = 69 // the cache cannot be reached
	exitInternal    = 70 // the container is not what a job needs
	exitConfig      = 78 // the job contradicts itself, or the cache refuses it
	exitCannotRun   = 126
	exitNotFound    = 127
	exitTerminated  = 128 + int(unix.SIGTERM)
)

// sourceDir is where the command runs: the clone, or an empty folder.
const sourceDir = "/source"

// Main runs the job of this container and returns its exit code.
func Main() int {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		say("cannot protect the job's secrets: %v", err)
		return exitInternal
	}
	// Only PID 1 has the environment that the engine wrote, and only as PID 1 do
	// orphans come to us. A debugging shell on the host must not get that far.
	if os.Getpid() != 1 {
		say("the job command runs only as the first process of a job's container")
		return exitInternal
	}
	job, rest := jobenv.Parse(os.Environ())
	rest, removed := withoutStoreVariables(rest)
	os.Clearenv()
	for _, entry := range rest {
		name, value, _ := strings.Cut(entry, "=")
		if err := os.Setenv(name, value); err != nil {
			say("cannot set %s again: %v", name, err)
			return exitInternal
		}
	}

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	children := newChildren(cancel)
	defer children.close()
	go endWithBuilder(children) // which lasts as long as the process
	t := teller{jobwire.NewWriter(os.Stdout, job.EventsToken)}
	var code int
	if job.Upkeep != "" {
		code = upkeep(ctx, job, rest, children)
	} else {
		for _, name := range removed {
			say("%s of the job image is not passed on: a job's Nix store is the container's own", name)
		}
		before := storePaths()
		rememberTools()
		mendProfiles(profiles)
		code = run(ctx, job, rest, children, t)
		t.usage(growth(ctx, before))
		if tool := lostTool(children, rest); tool != "" {
			say("this job leaves its Nix store without a %s that runs: no other job gets that store", tool)
			t.Note(jobwire.Note{StoreDamaged: true})
		}
	}
	if code != 0 && ranOutOfMemory() {
		mark(jobenv.OutOfMemory, "")
	}
	switch {
	case lifelineLost.Load():
		mark(jobenv.EndMark, "lifeline")
		return exitTerminated
	case code > 128 && !children.isTerminating():
		mark(jobenv.EndMark, "")
	case code == 0:
		t.Note(jobwire.Note{Succeeded: true})
		jobwire.NewWriter(os.Stderr, job.EventsToken).Note(jobwire.Note{Succeeded: true})
	}
	return code
}

// mark leaves word for the builder of how the job ended: jobenv says in which files.
func mark(name, text string) {
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		say("cannot make %s: %v", name, err)
	}
}

// run goes through the job's steps. Each returns the exit code to end with, or 0.
func run(ctx context.Context, job jobenv.Job, environ []string, children *children, t teller) int {
	version := askVersion(job.NixVersion, children, environ)
	// Not every Nix makes it; and in a store that outlives jobs, a job that was killed may
	// have left its builds there.
	if err := errors.Join(os.RemoveAll(jobenv.BuildDir), os.MkdirAll(jobenv.BuildDir, 0o755)); err != nil {
		say("cannot make the folder that Nix builds in: %v", err)
		return exitInternal
	}
	out := &output{w: os.Stdout}
	meter := &pushMeter{teller: t}
	pusher, code := preparePush(ctx, job, out, meter)
	if code != 0 {
		return code
	}
	if pusher != nil {
		defer pusher.Close()
	}
	credentials, code := newCredentials(job)
	if code != 0 {
		return code
	}
	defer credentials.close()
	environ = with(environ, credentials.environ()...)

	if code := fetch(job, environ, children, t); code != 0 {
		return code
	}
	b := &builder{job: job, environ: environ, children: children, teller: t, version: version}
	if pusher == nil {
		return b.build(os.Stdout)
	}
	return b.buildAndPush(ctx, pusher, out, meter)
}

// with returns an environment with more variables. They count, whatever the job image
// says: of two of one name, programs differ in which they take.
func with(environ []string, more ...string) []string {
	name := func(entry string) string { return entry[:strings.IndexByte(entry+"=", '=')] }
	kept := slices.DeleteFunc(slices.Clone(environ), func(entry string) bool {
		return slices.ContainsFunc(more, func(m string) bool { return name(m) == name(entry) })
	})
	return append(kept, more...)
}

// say writes a line of the job's own to its log.
func say(format string, args ...any) { fmt.Printf(sayFormat(format), args...) }

func sayFormat(format string) string { return "iglu: " + format + "\n" }
