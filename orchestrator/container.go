package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/internal/tick"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/schemas"
)

// This file runs one container of a job, from its start to its end.

const (
	// stopGrace is how long a container may take to end after SIGTERM. goneGrace is for jobs whose client
	// has disconnected, and for a builder that shuts down.
	stopGrace = 10 * time.Second
	goneGrace = 3 * time.Second
	// drainTimeout is how long follow waits for the rest of the output after the container has ended. Only
	// data that the engine still holds can be missing then.
	drainTimeout = 10 * time.Second
)

// follow starts an attempt's container and waits for its end. It writes the output to the job's log, and passes the records
// to the tracker. It returns the exit code, and the End record of the program in the container, or nil. When it
// gets that record, it does not wait until the engine reports the end.
func (r *run) follow(ctx context.Context, a *attempt, watchdog *watchdog) (code int, end *jobwire.End, err error) {
	c := a.container
	stream, err := c.Start(ctx)
	if err != nil {
		r.started = ctx.Err() != nil || !isRefused(err)
		return 0, nil, err
	}
	if a.fresh && a.lease != nil {
		r.say(fmt.Sprintf("the store was filled in %.1f s", time.Since(a.opened).Seconds()))
	}
	out := r.drain(stream, watchdog)
	defer func() { err = errors.Join(out.close(), err) }()
	defer sendHeartbeat(stream)()

	exited, stopWaiting := awaitExit(ctx, c)
	defer stopWaiting()
	var how *ending   // how the container ended
	var failure error // of the output
	select {
	case <-out.ended:
	case end := <-exited:
		how = &end
	case failure = <-out.failed:
	case <-ctx.Done():
	}
	switch {
	case out.hasEnded(): // whatever else has happened in the same moment
		end := out.lastRecord()
		return end.ExitCode, end, r.whyEnded(end)
	case failure != nil:
		if _, isLog := errors.AsType[*logError](failure); !isLog && out.lastRecord() != nil {
			return r.engineLost(out, failure)
		}
		r.stop(ctx, c, failure)
		return 0, nil, failure
	case how == nil:
		cause := context.Cause(ctx)
		if isSilent(cause) { // it cannot stop the container, and sends no output
			return r.engineLost(out, cause)
		}
		r.stop(ctx, c, cause)
		out.finish(drainTimeout)
		return 0, nil, cause
	case how.err != nil:
		return r.engineLost(out, how.err)
	}
	whole := out.finish(drainTimeout)
	if end := out.lastRecord(); end != nil {
		return how.Code, end, r.whyEnded(end)
	}
	if err := r.whyExited(how.Exit); err != nil || whole && how.Code != 0 {
		return how.Code, nil, err
	}
	r.say(endMissing)
	return how.Code, nil, nil
}

// isRefused reports whether an engine has answered that it did not start a container. Without an answer, it may have.
func isRefused(err error) bool {
	f, ok := errors.AsType[*engine.Failure](err)
	return ok && f.End == "" && !errors.Is(err, context.DeadlineExceeded)
}

const endMissing = "the end of the log may be missing: the engine did not pass all of it on"

// engineLost is follow's result if the engine fails. If the End record has arrived already, it says how the job has
// ended; only lines of standard error can be missing then. Otherwise the failure ends the job.
func (r *run) engineLost(out *output, failure error) (code int, end *jobwire.End, err error) {
	if end = out.lastRecord(); end == nil {
		return 0, nil, failure
	}
	r.say(endMissing)
	return end.ExitCode, end, r.whyEnded(end)
}

// sendHeartbeat writes the heartbeat of a container until stop is called. It ignores errors: the container
// notices if the heartbeat does not arrive.
func sendHeartbeat(stream engine.Stream) (stop func()) {
	return tick.Every(jobenv.Heartbeat, func() { stream.Write([]byte{'\n'}) })
}

// An ending is how a container ended, as reported by the engine.
type ending struct {
	engine.Exit
	err error
}

// awaitExit waits for a container's end until stop is called.
func awaitExit(ctx context.Context, c engine.Container) (ended <-chan ending, stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ends := make(chan ending, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		exit, err := c.Wait(ctx)
		ends <- ending{exit, err}
	}()
	return ends, func() {
		cancel()
		<-done
	}
}

// whyEnded returns nil if the job has ended by itself, and otherwise the failure that ended it.
func (r *run) whyEnded(end *jobwire.End) error {
	switch {
	case end.OutOfMemory:
		return r.outOfMemory()
	case end.LifelineLost:
		return errLost
	case end.Terminated && isSignal(end.ExitCode): // otherwise the command has chosen its exit code itself
		return errKilled
	case end.Unpushed != "":
		return &engine.Failure{End: jobend.Unpushed,
			What:   "The build itself succeeded, but " + end.Unpushed + ".",
			Advice: "The job's log says more. Send the job again to push the rest."}
	}
	return nil
}

// whyExited is whyEnded for a container whose program has sent no End record.
func (r *run) whyExited(exit engine.Exit) error {
	switch {
	case exit.OutOfMemory:
		return r.outOfMemory()
	case exit.Code == jobenv.ExitLifelineLost:
		return errLost
	case isSignal(exit.Code):
		return errKilled
	}
	return nil
}

// isSignal reports whether an exit code is that of a program that an engine has ended.
func isSignal(code int) bool { return code == engine.ExitKilled || code == engine.ExitTerminated }

var (
	errLost = &engine.Failure{End: jobend.EngineGone, What: "The container engine lost the connection to the job's container.",
		Advice: "Send the job again."}
	errKilled = &engine.Failure{End: jobend.Killed, What: "The job's container was ended from outside, not by the builder.",
		Advice: "The administrator of the container engine may know why."}
)

// isSilent reports whether a job ends because its engine does not answer any more.
func isSilent(cause error) bool { return errors.Is(cause, errHangs) || errors.Is(cause, errNodeLost) }

// stop ends a container with SIGTERM, and with SIGKILL after a time. ctx may have ended.
func (r *run) stop(ctx context.Context, c engine.Container, cause error) {
	grace := stopGrace
	switch end, _ := errors.AsType[jobend.End](cause); end {
	case jobend.Cancelled, jobend.ClientGone, jobend.Shutdown:
		grace = goneGrace
	}
	if err := c.Stop(context.WithoutCancel(ctx), grace); err != nil {
		r.log.Warn("cannot stop the container", "container", c.ID(), "err", err)
		r.node.engineFailed(err)
	}
}

// A logError is an error of the job's log, to which its output is written.
type logError struct{ cause error }

func (e *logError) Error() string { return e.cause.Error() }
func (e *logError) Unwrap() error { return e.cause }

// An output reads what a container prints: lines for the log, and records.
type output struct {
	stream engine.Stream
	cuts   []io.Closer
	failed chan error    // gets the error that ended the reading too early
	done   chan struct{} // closed when nothing more is read
	ended  chan struct{} // closed when both outputs have ended with a record

	mu        sync.Mutex
	end       *jobwire.End // the last record of standard output
	stderrEnd bool         // the last record of standard error was read
}

// drain begins to read a container's output.
func (r *run) drain(stream engine.Stream, watchdog *watchdog) *output {
	o := &output{stream: stream, failed: make(chan error, 1), done: make(chan struct{}), ended: make(chan struct{})}
	// The watchdog notices only what the job prints, not its records, which its user does not see.
	stdout, stderr := r.lines.Stream(schemas.Stdout), r.lines.Stream(schemas.Stderr)
	cutOut := jobwire.NewDemuxer(watchdog.over(logWriter{stdout}), r.env.EventsToken, func(n jobwire.Record) {
		r.tracker.take(n)
		o.take(n.End, false)
	})
	cutErr := jobwire.NewDemuxer(watchdog.over(logWriter{stderr}), r.env.EventsToken, func(n jobwire.Record) { o.take(n.End, true) })
	o.cuts = []io.Closer{cutOut, cutErr, stdout, stderr}
	go func() {
		defer close(o.done)
		if err := stream.Copy(cutOut, cutErr); err != nil {
			stream.Close() // an engine cannot end a container whose output nobody reads
			o.failed <- err
		}
	}()
	return o
}

// logWriter marks the errors of a job's log as such.
type logWriter struct{ to io.Writer }

func (w logWriter) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	if err != nil {
		err = &logError{err}
	}
	return n, err
}

// take stores the last record of an output.
func (o *output) take(end *jobwire.End, ofStderr bool) {
	if end == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	isFirst := o.end == nil || !o.stderrEnd
	if ofStderr {
		o.stderrEnd = true
	} else {
		o.end = end
	}
	if isFirst && o.end != nil && o.stderrEnd {
		close(o.ended)
	}
}

// hasEnded reports whether both outputs have ended with a record.
func (o *output) hasEnded() bool {
	select {
	case <-o.ended:
		return true
	default:
		return false
	}
}

// lastRecord returns the program's End record, or nil.
func (o *output) lastRecord() *jobwire.End {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.end
}

// finish waits until all output is read, but not longer than timeout. It reports whether all was read.
func (o *output) finish(timeout time.Duration) bool {
	select {
	case <-o.done:
		return true
	case <-time.After(timeout):
		return false
	}
}

// close ends the reading. Nothing is written to the log after it has returned. It returns the errors of the log.
func (o *output) close() error {
	o.stream.Close()
	<-o.done
	var errs []error
	for _, cut := range o.cuts {
		if err := cut.Close(); err != nil {
			errs = append(errs, &logError{err})
		}
	}
	return errors.Join(errs...)
}
