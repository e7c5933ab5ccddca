// Package jobrun is what runs inside a job's container, as its PID 1: it fetches
// the source, runs the command in it, pushes what that yields, and exits with the
// command's exit code.
//
// Everything it is told stands in the container's environment (internal/jobenv),
// secrets included. So before anything else it makes itself unreadable to the other
// processes of the container, and executes itself again without an environment (boot.go).
// From then on the secrets are in its memory and nowhere else. What it starts gets the rest of
// the environment: git can ask it for credentials (credentials.go), Nix and the build get none.
//
// The program itself is root. What it starts for the job is not: git and the command run as an
// unprivileged user (user.go), and Nix's store belongs to a nix-daemon (daemon.go), which the
// program starts before the source is fetched, and which lasts as long as the container. With
// jobenv.UserRoot all are root, and there is no daemon.
//
// One goroutine goes through the job's steps (run). Beside it, one waits for all processes
// (children.go), one watches the lifeline (lifeline.go), and for the time of the command some
// read what it prints and what Nix tells (tee.go, nixlog.go), and push (internal/push).
//
// Whatever it has to say is a line of the job's log that begins with "iglu: ". What it has to
// tell beside the log, Nix's progress among it, goes to the builder as internal/jobwire has
// it.
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

// Main runs the job of this container and returns its exit code. The engine starts the program
// without arguments; what handOver starts it with is the argument.
func Main(args []string) int {
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
	if len(args) == 0 {
		say("cannot protect the job's secrets: %v", handOver())
		return exitInternal
	}
	job, rest, err := takeOver(args[0])
	if err != nil {
		say("cannot read what is to be done: %v", err)
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
	go endWithBuilder(children) // which lasts as long as the process
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
	return tellEnd(end, job, children, t)
}

// checkBuild checks that the builder which has written the environment is the same build as this
// program, so that both mean the same by all that they tell each other.
func checkBuild(builders, program string) error {
	own, err := buildid.Of(program)
	if err != nil || own == builders {
		return err
	}
	return fmt.Errorf("the program in this container (build %s) is not the builder's (build %s): "+
		"run 'iglu-builder cleanup' while no job is running, and send the job again", cmp.Or(own, "unknown"), cmp.Or(builders, "unknown"))
}

// runInStore runs the job, and puts its store in order for the next.
func runInStore(ctx context.Context, job jobenv.Job, root runner, t reporter) jobwire.End {
	before := storePaths(job.Store != "")
	taken, err := takeStore(&job, root)
	mendProfiles(profiles)
	r := root
	if err == nil {
		r, err = prepare(job, root)
	}
	if err != nil {
		return cannotBegin(job, err)
	}
	end := run(ctx, job, root, r, t)
	root.children.killAll() // nothing of the job goes on in a store that is at rest
	clearBuildDir()
	t.usage(storeDelta(ctx, before))
	if job.Store != "" {
		if err := openStore().writeMark(taken); err != nil {
			say("the next job will verify this store: %v", err)
		}
	}
	return end
}

// cannotBegin says why the job ends before its command has run, and lets the builder have it begin
// again with another store, if that is why.
func cannotBegin(job jobenv.Job, err error) jobwire.End {
	if unusable, ok := errors.AsType[errUnusable](err); ok && job.Store == jobenv.StoreUsed {
		say("the job cannot begin with this store: %v", unusable)
		return jobwire.End{ExitCode: jobenv.ExitUnusableStore, UnusableStore: true}
	}
	sayWhy("Look at the job image, which has to be one of Nix.", "cannot prepare the container: %v", err)
	return failed(exitInternal)
}

// failed is how a job ends of which there is no more to say than an exit code.
func failed(code int) jobwire.End { return jobwire.End{ExitCode: code} }

// tellEnd tells the builder how the job has ended, and returns the exit code.
func tellEnd(end jobwire.End, job jobenv.Job, children *children, t reporter) int {
	secrets := redact.New(secretsOf(job)...)
	if lifelineLost.Load() {
		end = jobwire.End{ExitCode: jobenv.ExitLifelineLost, LifelineLost: true}
	}
	if end.ExitCode != 0 {
		end.OutOfMemory = ranOutOfMemory()
		end.Terminated = children.isTerminating() && !end.LifelineLost
	}
	why.complete(&end, secrets)
	t.Send(jobwire.Record{End: &end})
	jobwire.NewWriter(os.Stderr, job.EventsToken).Send(jobwire.Record{End: &end})
	return end.ExitCode
}

// run goes through the job's steps. It ends at the first that fails.
func run(ctx context.Context, job jobenv.Job, root, r runner, t reporter) jobwire.End {
	ofOthers := readConfOfImage() + "\n" + job.NixConf
	ofSystems, err := systemSettings(job, foreignSystems(r.children), ofOthers)
	if err != nil {
		sayWhy("", "%v", err)
		t.Send(jobwire.Record{NotRun: job.System})
		return failed(exitConfig)
	}
	r = r.with(jobenv.NixConfig + "=" + job.NixConfig + inParallel(job, ofOthers))
	version := askVersion(job.NixVersion, r)
	out := &output{w: os.Stdout}
	meter := &pushMeter{teller: t}
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
	if err == nil && job.FlakeConfig == "" { // else it has to wait for the source
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
	b := &builder{job: job, runner: r, teller: t, version: version}
	if pusher == nil {
		return failed(b.buildOnly(out))
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

// without returns an environment without some variables.
func without(environ []string, names ...string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(names, name)
	})
}

// say writes a line of the job's own to its log.
func say(format string, args ...any) { fmt.Printf(sayFormat(format), args...) }

func sayFormat(format string) string { return "iglu: " + format + "\n" }
