// Package orchestrator runs jobs: one container each, from a Request to a Verdict.
//
// This file is the life of a job as it is on any engine. docker.go is the one
// engine that there is, behind the interface engine.
package orchestrator

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/schemas"
)

// A Builder runs jobs on an engine. Its caller sees to it that they come one at a
// time.
type Builder struct {
	engine  engine
	options Options
	logs    *joblog.Store
	records Records
	log     *slog.Logger

	mu      sync.Mutex
	running map[string]context.CancelCauseFunc // what ends the jobs that run
}

// engine is where containers run.
type engine interface {
	// ping returns nil if the engine answers.
	ping(ctx context.Context) error
	// run makes a container, runs it, and returns its exit code when that is known, also
	// with an error if there is more to say about its end. Its output goes to stdout and
	// stderr, what the engine does meanwhile to say, a line at a time; nothing comes of
	// either after run has returned. When ctx ends, so does the container. It is removed
	// when run has returned: the next run waits for that, and so does close.
	run(ctx context.Context, c container, stdout, stderr io.Writer, say func(line string)) (exitCode int, err error)
	// clean removes all that the builder's instance has on the engine but its stores, and
	// tells removed of each thing. No container may be running.
	clean(ctx context.Context, removed func(kind, name string)) error
	// tend looks after the engine between containers, until ctx ends.
	tend(ctx context.Context, log *slog.Logger)
	// stores returns the Nix stores that outlive jobs, the one that was used last first.
	stores(ctx context.Context) ([]Store, error)
	// storesSize returns how many of them are known and how large they are together.
	storesSize() (stores int, bytes int64)
	// removeStore removes one, if it is there.
	removeStore(ctx context.Context, name string) error
	// check returns why containers can never run as they are set up.
	check(ctx context.Context, log *slog.Logger) error
	// isOfJobs reports whether an address is known to be of the network that containers are on.
	isOfJobs(addr netip.Addr) bool
	// close waits until what has ended is removed, and gives up the connection to the engine.
	close() error
}

// container is what a job asks of an engine.
type container struct {
	job     string       // the job's id
	told    jobenv.Job   // what the program in it is told, and the engine adds to
	trust   trust        // decides with which jobs it shares a store
	log     *slog.Logger // the server's log, without the job's secrets
	account *account     // gets what comes to be known
}

// Healthy returns nil while the engine answers.
func (b *Builder) Healthy(ctx context.Context) error { return b.engine.ping(ctx) }

// Clean removes everything on the engine that carries the instance's name but the stores:
// what an earlier run of this builder left, and what it would use again. removed is told each
// thing. It returns what could not be removed; that is tried again before the next job. No job
// may be running.
func (b *Builder) Clean(ctx context.Context, removed func(kind, name string)) error {
	return b.engine.clean(ctx, removed)
}

// Tend brings the job image onto the engine, so that the first job need not wait for it, and
// looks after the stores between jobs, until ctx ends.
func (b *Builder) Tend(ctx context.Context) { b.engine.tend(ctx, b.log) }

// Stores returns the Nix stores that outlive jobs, the one that was used last first.
func (b *Builder) Stores(ctx context.Context) ([]Store, error) { return b.engine.stores(ctx) }

// StoresSize returns how many Nix stores outlive jobs, and how many bytes they take together,
// as far as that is known.
func (b *Builder) StoresSize() (stores int, bytes int64) { return b.engine.storesSize() }

// RemoveStore removes the store of a name, if it is there. One that is in use stays, which is an error.
func (b *Builder) RemoveStore(ctx context.Context, name string) error {
	return b.engine.removeStore(ctx, name)
}

// Check returns why jobs can never run as the builder is set up, or nil as far as the engine
// can be asked.
func (b *Builder) Check(ctx context.Context) error { return b.engine.check(ctx, b.log) }

// IsOfJobs reports whether an address is one that a job can have, as far as that is known: of the
// network that jobs are connected to.
func (b *Builder) IsOfJobs(addr netip.Addr) bool { return b.engine.isOfJobs(addr) }

// Close waits until what is left of the last job is removed, and frees the connection to the
// engine. No job may be running.
func (b *Builder) Close() error { return b.engine.close() }

// Build runs one job to its end and returns the last message for its client. Until
// then out gets the job's lines as they appear, in writes of one or more whole
// lines, each ended by a line feed, or all of its messages if it is a
// schemas.MessageWriter; when out fails or ctx ends, so does the job. A
// slow out does not slow the job down. The message has no number if the job has no log in
// which it could stand.
func (b *Builder) Build(ctx context.Context, request *schemas.Request, out io.Writer) schemas.Message {
	job := strings.ToLower(rand.Text())
	told := jobOf(request, b.options)
	told.EventsToken = rand.Text()
	// Without the token: nothing prints it, and each more secret masks some text by chance.
	redactor := redact.New(secretsOf(request, b.options)...)
	log := slog.New(redactor.Handler(b.log.Handler())).With("job", job)
	log.Info("job started")
	b.options.Observer.JobStarted()
	account := newAccount()
	c := container{job: job, told: told, trust: trustOf(request), log: log, account: account}
	lines, err := b.logs.Create(job, redactor)
	if err != nil {
		verdict := account.close(Verdict{Err: logFailure(err)})
		b.ended(verdict, log)
		response := verdict.Response()
		return schemas.Message{Time: time.Now(), Response: &response, Event: schemas.AppendEvent(nil, verdict.Event())}
	}
	defer b.prune(log) // when the log is closed, and old ones are gone
	defer lines.Close()
	ctx, done := b.cancellable(ctx, job)
	defer done()
	for _, property := range shownProperties(request) {
		lines.Printf("iglu: warning: the command line holds a secret, which other programs of the job can read; use %s", property)
	}
	return b.buildLogged(ctx, c, request.Arch, lines, b.begin(job, request, redactor, log), out)
}

// buildLogged runs a container, keeps its log and record, and has out follow the log.
func (b *Builder) buildLogged(ctx context.Context, c container, arch string, lines *joblog.Log, record *recorder, out io.Writer) schemas.Message {
	ctx, stop := b.options.Deadlines.bound(ctx)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.account.lines = lines
	lines.Respond(schemas.Accepted(), nil)
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		// It ends with the log, not with ctx: the last lines count, too.
		if err := follow(context.WithoutCancel(ctx), lines, out); err != nil {
			cancel(err)
		}
	}()
	var verdict Verdict
	if c.told.System, verdict.Err = systemFor(arch); verdict.Err == nil {
		listener := b.options.Deadlines.listen(cancel)
		defer listener.stop()
		verdict = b.run(ctx, c, lines, listener)
	}
	verdict = c.account.close(verdict)
	b.ended(verdict, c.log)
	record.end(verdict, lines.Lines()) // before somebody is told, who may ask for it
	last := lines.Respond(verdict.Response(), verdict.Event())
	lines.Seal()
	<-followed
	return last
}

// ended tells all but the client of a verdict.
func (b *Builder) ended(verdict Verdict, log *slog.Logger) {
	verdict.log(log)
	b.options.Observer.JobEnded(verdict.Event())
}

// follow has out follow a log as it wants to.
func follow(ctx context.Context, lines *joblog.Log, out io.Writer) error {
	if out, ok := out.(schemas.MessageWriter); ok {
		return lines.FollowMessages(ctx, 1, out.WriteMessages)
	}
	return lines.Follow(ctx, 0, out)
}

func (b *Builder) run(ctx context.Context, c container, lines *joblog.Log, l *listener) Verdict {
	stdout, stderr := lines.Stream(schemas.Stdout), lines.Stream(schemas.Stderr)
	// Only output is heard: a job may tell much that its user does not see.
	cutOut := jobwire.NewCutter(l.to(stdout), c.told.EventsToken, c.account.take)
	cutErr := jobwire.NewCutter(l.to(stderr), c.told.EventsToken, c.account.takeStderr)
	code, err := b.engine.run(ctx, c, cutOut, cutErr, func(line string) { lines.Printf("iglu: %s", line) })
	logErr := errors.Join(cutOut.Close(), cutErr.Close(), stdout.Close(), stderr.Close())
	switch {
	case logErr != nil: // whatever else failed, failed because of that
		return Verdict{Err: logFailure(logErr)}
	case err != nil && ctx.Err() != nil: // likewise
		return Verdict{Err: cancelled(context.Cause(ctx))}
	}
	if f, ok := errors.AsType[*failure](err); ok && f.call != "" {
		b.options.Observer.EngineFailed(f.call)
	}
	return Verdict{ExitCode: code, Err: err}
}

// logFailure says that a job ends because its log cannot be kept.
func logFailure(err error) error {
	return &failure{cause: err, what: "The builder cannot keep the job's log.",
		advice: "Make room on the disk of its folder for logs (IGLU_STATE_DIR), and send the job again."}
}
