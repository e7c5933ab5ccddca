package orchestrator

import (
	"context"
	"errors"
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

// This file is one container of a job from its start to its end.

const (
	// stopGrace is how long a container may take to end after SIGTERM, and goneGrace
	// when there is no client any more that would see what it says last, or no time.
	stopGrace = 10 * time.Second
	goneGrace = 3 * time.Second
	// drainTimeout bounds the wait for the end of a container's output after the
	// container itself has ended. Only what the engine still holds can be left.
	drainTimeout = 10 * time.Second
)

// follow starts a container and sees it to its end: its output goes to the job's log, its records to
// the tracker. It returns the exit code, and what the program in the container says of its end, if
// anything. When that has come, nobody waits until the engine has noticed.
func (r *run) follow(ctx context.Context, c engine.Container, watchdog *watchdog) (code int, end *jobwire.End, err error) {
	stream, err := c.Start(ctx)
	if err != nil {
		return 0, nil, err
	}
	out := r.drain(stream, watchdog)
	defer func() { err = errors.Join(out.close(), err) }()
	defer sendHeartbeat(stream)()

	exited, stopWaiting := await(ctx, c)
	defer stopWaiting()
	var exit engine.Exit
	select {
	case <-out.told:
		return out.end.ExitCode, out.end, r.whyEnded(out.end)
	case how := <-exited:
		if how.err != nil {
			return 0, nil, how.err
		}
		exit = how.Exit
	case err := <-out.failed:
		r.stop(ctx, c, err)
		return 0, nil, err
	case <-ctx.Done():
		cause := context.Cause(ctx)
		if !isSilent(cause) { // an engine that is would not hear of it, and has nothing to say
			r.stop(ctx, c, cause)
			out.finish(drainTimeout)
		}
		return 0, nil, cause
	}
	whole := out.finish(drainTimeout)
	if end := out.lastRecord(); end != nil {
		return exit.Code, end, r.whyEnded(end)
	}
	if err := r.whyExited(exit); err != nil || whole && exit.Code != 0 {
		return exit.Code, nil, err
	}
	r.say("the end of the log may be missing: the engine did not pass all of it on")
	return exit.Code, nil, nil
}

// sendHeartbeat writes the heartbeat of a container until stop is called. Whether it arrives, the container sees.
func sendHeartbeat(stream engine.Stream) (stop func()) {
	return tick.Every(jobenv.Heartbeat, func() { stream.Write([]byte{'\n'}) })
}

// An ending is how a container ended, as the engine says.
type ending struct {
	engine.Exit
	err error
}

// await waits for a container's end until stop is called.
func await(ctx context.Context, c engine.Container) (ended <-chan ending, stop func()) {
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

// whyEnded returns nil if a job has ended by itself, and else the failure that says why.
func (r *run) whyEnded(end *jobwire.End) error {
	switch {
	case end.OutOfMemory:
		return r.outOfMemory()
	case end.LifelineLost:
		return errLost
	case end.Terminated && isSignal(end.ExitCode): // else its command has ended in its own way
		return errKilled
	case end.Unpushed != "":
		return &engine.Failure{End: jobend.Unpushed,
			What:   "The build itself succeeded, but " + end.Unpushed + ".",
			Advice: "The job's log says more. Send the job again to push the rest."}
	}
	return nil
}

// whyExited does the same for a container whose program has not said how the job ended.
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

// isSignal reports whether an exit code is that of what an engine ends.
func isSignal(code int) bool { return code == engine.ExitKilled || code == engine.ExitTerminated }

var (
	errLost = &engine.Failure{End: jobend.EngineGone, What: "The container engine lost the connection to the job's container.",
		Advice: "Send the job again."}
	errKilled = &engine.Failure{End: jobend.Killed, What: "The job's container was ended from outside, not by the builder.",
		Advice: "Whoever looks after the container engine may know why."}
)

// isSilent reports whether a job ends because its engine gives no sign of life.
func isSilent(cause error) bool { return errors.Is(cause, errHangs) || errors.Is(cause, errNodeLost) }

// stop ends a container, gently first. ctx may have ended.
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

// A logError is one of the job's log, in which its output is kept.
type logError struct{ cause error }

func (e *logError) Error() string { return e.cause.Error() }
func (e *logError) Unwrap() error { return e.cause }

// An output reads what a container prints: lines for the log, and records.
type output struct {
	stream engine.Stream
	cuts   []io.Closer
	failed chan error    // gets why the reading ended, if it did before its time
	done   chan struct{} // closed when nothing more is read
	told   chan struct{} // closed when both outputs have ended with a record

	mu        sync.Mutex
	end       *jobwire.End // the last record of standard output
	stderrEnd bool         // that of standard error has come
}

// drain begins to read a container's output.
func (r *run) drain(stream engine.Stream, watchdog *watchdog) *output {
	o := &output{stream: stream, failed: make(chan error, 1), done: make(chan struct{}), told: make(chan struct{})}
	// Only what is printed is noticed: a job may tell much that its user does not see.
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
			stream.Close() // an engine whose output nobody reads cannot end the container
			o.failed <- err
		}
	}()
	return o
}

// logWriter tells the errors of a job's log from others.
type logWriter struct{ to io.Writer }

func (w logWriter) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	if err != nil {
		err = &logError{err}
	}
	return n, err
}

// take takes the last record of an output.
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
		close(o.told)
	}
}

// lastRecord returns what the program has said of its end, or nil.
func (o *output) lastRecord() *jobwire.End {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.end
}

// finish waits until all is read, at most for the time-out, and reports whether it was.
func (o *output) finish(timeout time.Duration) bool {
	select {
	case <-o.done:
		return true
	case <-time.After(timeout):
		return false
	}
}

// close ends the reading. Nothing is written to the log after it has returned. The error is that of
// the log.
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
