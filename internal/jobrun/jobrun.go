// Package jobrun is the program that runs in a job's container, as its PID 1. It fetches the source,
// runs the command in it, pushes the results, and exits with the command's exit code.
//
// It gets its parameters, secrets included, in the container's environment (internal/jobenv). So it
// first makes its memory unreadable to the other processes of the container, and executes itself
// again without an environment (boot.go). After that the secrets are in its memory only. The programs
// that it starts get the rest of the environment. Git can ask it for credentials (credentials.go);
// Nix and the build get none.
//
// The program itself runs as root. Git and the job's command run as an unprivileged user (user.go).
// Nix's store belongs to a nix-daemon (daemon.go), which runs from before the source is fetched until
// the container ends. With jobenv.UserRoot everything runs as root, and there is a daemon only if the job pushes.
//
// One goroutine executes the job's steps (run). Another waits for all processes (children.go), and
// another watches the lifeline (lifeline.go). While the command runs, others read its output and
// Nix's log (tee.go, nixlog.go), and push (internal/push).
//
// The program's own lines in the job's log begin with "iglu: ". It reports everything else, such as
// Nix's progress, to the builder in the protocol of internal/jobwire.
package jobrun

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"iglu.sh/builder/internal/buildid"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/internal/redact"
)

// Exit codes of a job, in addition to those of the programs that it runs. 126 and 127 are a shell's
// for a command that cannot be run or is not found. The others are from BSD's sysexits.h.
const (
	exitUnavailable = 69 // the cache cannot be reached
	exitInternal    = 70 // an error of the container or of this program
	exitConfig      = 78 // the job contradicts itself, or the cache refuses it
	exitCannotRun   = 126
	exitNotFound    = 127
	exitTerminated  = 128 + int(unix.SIGTERM)
)

// sourceDir is where the command runs: the clone, or an empty folder.
const sourceDir = "/source"

// Main runs the job of this container and returns its exit code. The engine starts the program
// without arguments. Only handOver starts it with an argument: the descriptor of the job's file.
func Main(args []string) int {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		say("cannot protect the job's secrets: %v", err)
		return exitInternal
	}
	// Only PID 1 has the environment that the engine wrote, and only PID 1 inherits orphans. So
	// running this program elsewhere, as in a debugging shell, is an error.
	if os.Getpid() != 1 {
		say("the job command runs only as the first process of a job's container")
		return exitInternal
	}
	if len(args) == 0 {
		say("cannot protect the job's secrets: %v", handOver())
		return exitInternal
	}
	job, rest, err := takeOver(args[0])
	if err != nil {
		say("cannot read the job's parameters: %v", err)
		return exitInternal
	}
	if err := checkBuild(job.BuildID, "/proc/self/exe"); err != nil {
		say("%v", err)
		return exitInternal
	}
	rest, removed := withoutStoreVariables(rest)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	children := newChildren(cancel)
	defer children.close()
	go endWithBuilder(children) // until the process exits
	t := reporter{jobwire.NewWriter(os.Stdout, job.EventsToken)}
	root := runner{children: children, user: rootUser(), environ: rest}
	var end jobwire.End
	if job.Maintenance != "" {
		end.ExitCode = maintenance(ctx, job, root)
	} else {
		for _, name := range removed {
			say("%s of the job image is not passed on: a job's Nix store is the container's own", name)
			os.Unsetenv(name)
		}
		end = runInStore(ctx, job, root, t)
	}
	return reportEnd(end, job, children, t)
}

// checkBuild returns an error unless this program and the builder that started the container are the
// same build. Otherwise the two could understand a message differently.
func checkBuild(builders, program string) error {
	own, err := buildid.Of(program)
	if err != nil || own == builders {
		return err
	}
	return fmt.Errorf("the program in this container (build %s) is not the builder's (build %s): "+
		"run 'iglu-builder cleanup' while no job is running, and send the job again", cmp.Or(own, "unknown"), cmp.Or(builders, "unknown"))
}

// runInStore runs the job, and then prepares its store for the next job.
func runInStore(ctx context.Context, job jobenv.Job, root runner, t reporter) jobwire.End {
	taken, err := takeStore(&job, root)
	mendProfiles(profiles)
	r := root
	if err == nil {
		r, err = prepare(job, root)
	}
	if err != nil {
		return cannotBegin(job, err)
	}
	before := storePaths(job.Store != "")
	end := run(ctx, job, root, r, t)
	root.children.killAll() // before the store is marked as clean
	clearBuildDir()
	t.usage(storeDelta(ctx, before))
	if job.Store != "" {
		if err := openStore().writeMark(taken); err != nil {
			say("the next job will verify this store: %v", err)
		}
	}
	return end
}

// cannotBegin says why the job ends before its command has run. If the store is the reason, the
// returned End makes the builder start the job again with another store.
func cannotBegin(job jobenv.Job, err error) jobwire.End {
	if unusable, ok := errors.AsType[errUnusable](err); ok && job.Store == jobenv.StoreUsed {
		say("the job cannot begin with this store: %v", unusable)
		return jobwire.End{ExitCode: jobenv.ExitUnusableStore, UnusableStore: true}
	}
	sayWhy("Look at the job image, which has to be one of Nix.", "cannot prepare the container: %v", err)
	return failed(exitInternal)
}

// failed returns the End of a job of which only the exit code is known.
func failed(code int) jobwire.End { return jobwire.End{ExitCode: code} }

// reportEnd reports to the builder how the job has ended, and returns the exit code.
func reportEnd(end jobwire.End, job jobenv.Job, children *children, t reporter) int {
	if lifelineLost.Load() {
		end = jobwire.End{ExitCode: jobenv.ExitLifelineLost, LifelineLost: true}
	}
	if end.ExitCode != 0 {
		end.OutOfMemory = ranOutOfMemory()
		end.Terminated = children.isTerminating() && !end.LifelineLost
		why.complete(&end, redact.New(secretsOf(job)...))
	}
	t.Send(jobwire.Record{End: &end})
	jobwire.NewWriter(os.Stderr, job.EventsToken).Send(jobwire.Record{End: &end})
	return end.ExitCode
}

// run executes the job's steps. It stops at the first that fails.
func run(ctx context.Context, job jobenv.Job, root, r runner, t reporter) jobwire.End {
	ofOthers := settingsOfOthers(job)
	ofSystems, err := systemSettings(job, foreignSystems(r.children), ofOthers)
	if err != nil {
		sayWhy("", "%v", err)
		t.Send(jobwire.Record{NotRun: job.System})
		return failed(exitConfig)
	}
	r = r.with(jobenv.NixConfig + "=" + job.NixConfig + inParallel(job, ofOthers))
	version := askVersion(job.NixVersion, r)
	out := &output{w: os.Stdout}
	meter := &pushMeter{reporter: t}
	pusher, code := preparePush(ctx, job, out, meter)
	if code != 0 {
		return failed(code)
	}
	if pusher != nil {
		defer pusher.Close()
	}
	credentials, code := newCredentials(job, r.user)
	if code != 0 {
		return failed(code)
	}
	defer credentials.close()
	r = r.with(credentials.environ()...)
	r.environ = withSettings(r.environ, credentials.settings())
	d, r, err := newDaemon(job, root, r, ofSystems, pusher)
	if err == nil && job.FlakeConfig == "" { // else it is started after the source is fetched
		err = d.start(trust{})
	}
	if err != nil {
		return cannotBegin(job, err)
	}
	if code := fetch(job, r, t); code != 0 {
		return failed(code)
	}
	if job.FlakeConfig != "" {
		if err := d.start(trustOfFlake(r)); err != nil {
			return cannotBegin(job, err)
		}
	}
	b := &builder{job: job, runner: r, reporter: t, version: version}
	if pusher == nil {
		return failed(b.buildOnly(out))
	}
	return b.buildAndPush(ctx, pusher, out, meter)
}

// with returns an environment with more variables. They replace variables of the same names, because
// programs differ in which of two they use.
func with(environ []string, more ...string) []string {
	name := func(entry string) string { return entry[:strings.IndexByte(entry+"=", '=')] }
	kept := slices.DeleteFunc(slices.Clone(environ), func(entry string) bool {
		return slices.ContainsFunc(more, func(m string) bool { return name(m) == name(entry) })
	})
	return append(kept, more...)
}

// without returns an environment without some variables.
func without(environ []string, names ...string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(names, name)
	})
}

// say writes a line of this program to the job's log.
func say(format string, args ...any) { fmt.Printf(sayFormat(format), args...) }

func sayFormat(format string) string { return "iglu: " + format + "\n" }
