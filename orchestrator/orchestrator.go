// Package orchestrator runs jobs: one container each, from a Request to a Verdict.
//
// This file is the life of a job as it is on any engine. docker.go is the one
// engine that there is, behind the interface engine.
package orchestrator

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"strings"
	"time"

	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/schemas"
)

// A Builder runs jobs on an engine. Its caller sees to it that they come one at a
// time.
type Builder struct {
	engine engine
	log    *slog.Logger
}

// engine is where containers run.
type engine interface {
	// ping returns nil if the engine answers.
	ping(ctx context.Context) error
	// run runs a container from its making to its removal and returns its exit
	// code. Its output goes to stdout and stderr, what the engine does meanwhile
	// to say, a line at a time. When ctx ends, so does the container. When run
	// returns, nothing of the container is left, unless the engine was lost.
	run(ctx context.Context, c container, stdout, stderr io.Writer, say func(line string)) (exitCode int, err error)
	// close gives up the connection to the engine.
	close() error
}

// container is what a job asks of an engine.
type container struct {
	job     string   // the job's id
	environ []string // what the program in it is told; see internal/jobenv
}

// Healthy returns nil while the engine answers.
func (b *Builder) Healthy(ctx context.Context) error { return b.engine.ping(ctx) }

// Close frees the connection to the engine. No job may be running.
func (b *Builder) Close() error { return b.engine.close() }

// Build runs one job to its end and returns the last message for its client. Until
// then out gets the job's lines as they appear, in writes of one or more whole
// lines, each ended by a line feed; when out fails or ctx ends, so does the job. A
// slow out does not slow the job down.
func (b *Builder) Build(ctx context.Context, request *schemas.Request, out io.Writer) schemas.Response {
	job := strings.ToLower(rand.Text())
	log := b.log.With("job", job)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	lines, err := joblog.New("")
	if err != nil {
		log.Error("cannot keep a log", "err", err)
		return schemas.Unable("The builder cannot keep the log of a job. Check the disk of its folder for temporary files.")
	}
	defer lines.Close()
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		// It ends with the log, not with ctx: the last lines count, too.
		if err := lines.Follow(context.WithoutCancel(ctx), out); err != nil {
			cancel(err)
		}
	}()

	log.Info("job started")
	begun := time.Now()
	verdict := b.run(ctx, job, request, lines)
	lines.Seal()
	<-followed
	log.Info("job ended", "exitCode", verdict.ExitCode, "err", verdict.Err, "duration", time.Since(begun).Round(time.Millisecond))
	return verdict.Response()
}

func (b *Builder) run(ctx context.Context, job string, request *schemas.Request, lines *joblog.Log) Verdict {
	stdout, stderr := lines.Stream(), lines.Stream()
	code, err := b.engine.run(ctx, container{job: job, environ: environ(request)},
		stdout, stderr, func(line string) { lines.Printf("iglu: %s", line) })
	for _, stream := range []*joblog.Stream{stdout, stderr} {
		if closeErr := stream.Close(); err == nil && closeErr != nil {
			err = closeErr
		}
	}
	if err != nil && ctx.Err() != nil {
		// Whatever failed, failed because of that.
		err = &cancelled{cause: context.Cause(ctx)}
	}
	return Verdict{ExitCode: code, Err: err}
}
