package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	containertypes "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
	"github.com/docker/go-units"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/tick"
)

// This file is one container from its start to its removal.

const (
	// stopGrace is how long a container may take to end after SIGTERM, and goneGrace
	// when there is no client any more that would see what it says last.
	stopGrace = 10 * time.Second
	goneGrace = 3 * time.Second
	// drainTimeout bounds the wait for the end of a container's output after the
	// container itself has ended. Only what the engine still holds can be left.
	drainTimeout = 10 * time.Second
	// removeTimeout bounds the removal of a container, the stop included.
	removeTimeout = 30 * time.Second
	// removeInterval is how often that is tried while somebody else removes it, too.
	removeInterval = 100 * time.Millisecond
)

// runCreated starts a container and sees it to its end. The order is what makes no
// byte and no exit code get lost: attach and wait are both in place before start. When
// succeeded says that the exit code is known to be 0 and all output has come, nobody waits
// until the engine has noticed.
func (d *docker) runCreated(ctx context.Context, id string, stdout, stderr io.Writer, say func(string), succeeded func() bool, log *slog.Logger) (int, error) {
	calls, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	output, err := d.attach(calls, id)
	if err != nil {
		d.forget() // for Podman, this is a part of the start
		return 0, engineFailure("attach to the container", err)
	}
	defer output.Close()

	waiting, stopWaiting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWaiting()
	keepWaiting := context.AfterFunc(calls, stopWaiting)
	ended := d.awaitNextExit(waiting, id)
	keepWaiting() // what follows may take as long as the job does

	if err := d.client.ContainerStart(calls, id, containertypes.StartOptions{}); err != nil {
		d.forget() // it may be the program that is gone from its volume
		return 0, engineFailure("start the container", err)
	}
	defer beat(output.Conn)()
	out := drain(&output, stdout, stderr, succeeded)
	code, err := d.awaitEnd(ctx, id, ended, out, log)
	whole := out.finish(drainTimeout) && (code != 0 || succeeded())
	if !whole && err == nil {
		say("the end of the log may be missing: the engine did not pass all of it on")
	}
	return code, err
}

// attach connects to a container's input and output. The engine's client waits for the answer
// to that for ever; this, until ctx ends.
func (d *docker) attach(ctx context.Context, id string) (types.HijackedResponse, error) {
	var output types.HijackedResponse
	attached := make(chan error, 1)
	go func() {
		var err error
		output, err = d.client.ContainerAttach(ctx, id, containertypes.AttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
		attached <- err
	}()
	select {
	case err := <-attached:
		return output, err
	case <-ctx.Done():
		go func() {
			if <-attached == nil {
				output.Close()
			}
		}()
		return types.HijackedResponse{}, context.Cause(ctx)
	}
}

// beat tells the program in a container that its builder is there, until the function that
// it returns is called.
func beat(lifeline net.Conn) (stop func()) {
	return tick.Every(jobenv.Beat, func() {
		// Whether it arrives, the other side sees.
		lifeline.SetWriteDeadline(time.Now().Add(jobenv.Beat))
		lifeline.Write([]byte{'\n'})
	})
}

const (
	// watchInterval is how often an engine is asked for a sign of life while a job runs, and
	// mostSilent how many times in a row it may give none. By then the job has ended, for want of
	// its builder's beat, which comes through the engine.
	watchInterval = 10 * time.Second
	mostSilent    = 6
)

// errHangs is why a job ends whose engine is there, but would not even say that the job's
// container has ended.
var errHangs = &failure{end: jobend.EngineGone, call: callPing, what: "The container engine does not answer any more.",
	advice: "Send the job again when it does."}

// watchEngine returns a context that ends with ctx, or with errHangs when the engine hangs. The
// watch goes on until stop is called.
func (d *docker) watchEngine(ctx context.Context) (watched context.Context, stop func()) {
	watched, cancel := context.WithCancelCause(ctx)
	silent := 0
	stopAsking := tick.Every(watchInterval, func() {
		if d.ping(watched) == nil {
			silent = 0
		} else if silent++; silent == mostSilent {
			cancel(errHangs)
		}
	})
	return watched, func() {
		cancel(nil)
		stopAsking()
	}
}

// exit is how a container ended.
type exit struct {
	code int
	err  error
}

// awaitNextExit sends how a container ends that is about to start. It returns when
// the engine has begun to watch.
func (d *docker) awaitNextExit(ctx context.Context, id string) <-chan exit {
	exited, lost := d.client.ContainerWait(ctx, id, containertypes.WaitConditionNextExit)
	ended := make(chan exit, 1)
	go func() {
		end, isSure := exitOf(exited, lost)
		if !isSure {
			// Podman at times fails to read what it has just written.
			end, _ = exitOf(d.client.ContainerWait(ctx, id, containertypes.WaitConditionNotRunning))
		}
		ended <- end
	}()
	return ended
}

// exitOf waits for the answer of a wait. It is not sure when the engine has noticed an end,
// but cannot say which.
func exitOf(exited <-chan containertypes.WaitResponse, lost <-chan error) (end exit, isSure bool) {
	// The client's own goroutine ends only when somebody takes what it found.
	select {
	case status := <-exited:
		if status.Error != nil {
			return exit{err: errors.New(status.Error.Message)}, false
		}
		return exit{code: int(status.StatusCode)}, true
	case err := <-lost:
		return exit{err: err}, true
	}
}

// awaitEnd returns the exit code of a started container. The end of its output is
// not its end; but when the output cannot be kept, the job is of no use.
func (d *docker) awaitEnd(ctx context.Context, id string, ended <-chan exit, out *draining, log *slog.Logger) (int, error) {
	select {
	case <-out.success:
		return 0, nil
	case end := <-ended:
		if end.err != nil {
			return 0, engineFailure("wait for the container", end.err)
		}
		return end.code, d.whyExited(ctx, id, end.code, log)
	case err := <-out.failed:
		d.stop(ctx, id, err, log)
		return 0, engineFailure("pass on the container's output", err)
	case <-ctx.Done():
		d.stop(ctx, id, context.Cause(ctx), log)
		return 0, context.Cause(ctx)
	}
}

// whyExited returns nil if a container ended by itself with this exit code, and else the
// failure that says why.
func (d *docker) whyExited(ctx context.Context, id string, code int, log *slog.Logger) error {
	if code == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	found, err := d.client.ContainerInspect(ctx, id)
	if err != nil {
		log.Warn("cannot see whether the container ran out of memory", "err", err)
		d.options.Observer.EngineFailed(callInspect)
	} else if found.State.OOMKilled || d.has(ctx, id, jobenv.OutOfMemory) {
		return &failure{end: jobend.OutOfMemory, what: "The job ran out of memory.",
			advice: fmt.Sprintf("It may use %s (IGLU_JOB_MEMORY).", units.BytesSize(float64(found.HostConfig.Memory)))}
	}
	if code != exitKilled && code != 128+int(syscall.SIGTERM) {
		return nil
	}
	// That may be the exit code of the job's command as well. Of a container that is being
	// removed engines say all kinds of things, but not that the mark is there.
	mark, err := d.client.ContainerStatPath(ctx, id, jobenv.EndMark)
	switch {
	case err == nil && mark.Size > 0:
		return &failure{end: jobend.EngineGone, what: "The container engine lost the connection to the job's container.",
			advice: "Send the job again."}
	case err == nil || client.IsErrConnectionFailed(err):
		return nil
	}
	return &failure{end: jobend.Killed, cause: err, what: "The job's container was ended from outside, not by the builder.",
		advice: "Whoever looks after the container engine may know why."}
}

// wasKilled reports whether a container that has ended, or may have, was killed, as far as
// the engine knows.
func (d *docker) wasKilled(ctx context.Context, id string) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	found, err := d.client.ContainerInspect(ctx, id)
	return err != nil || found.State.Running || found.State.OOMKilled ||
		found.State.ExitCode == exitKilled && !d.has(ctx, id, jobenv.EndMark) // which may be the command's own
}

// has reports whether a container is known to have a file.
func (d *docker) has(ctx context.Context, id, file string) bool {
	_, err := d.client.ContainerStatPath(ctx, id, file)
	return err == nil
}

// draining reads a container's output.
type draining struct {
	output  *types.HijackedResponse
	failed  chan error    // gets the error, if there is one
	success chan struct{} // closed when all is read of a job that is known to have succeeded
	done    chan struct{} // closed when nothing more is read
}

// errSucceeded ends the reading of an output that has nothing more to say.
var errSucceeded = errors.New("the job has succeeded")

// A finishing writer fails when all is written of a job that has succeeded.
type finishing struct {
	to        io.Writer
	succeeded func() bool
}

func (w finishing) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	if err == nil && w.succeeded() {
		err = errSucceeded
	}
	return n, err
}

// drain begins to read a container's output, until that ends or the job has succeeded.
func drain(output *types.HijackedResponse, stdout, stderr io.Writer, succeeded func() bool) *draining {
	d := &draining{output: output, failed: make(chan error, 1), success: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(d.done)
		_, err := stdcopy.StdCopy(finishing{stdout, succeeded}, finishing{stderr, succeeded}, output.Reader)
		switch {
		case errors.Is(err, errSucceeded):
			close(d.success)
		case err != nil:
			// An engine whose output nobody reads cannot end the container.
			output.Close()
			d.failed <- err
		}
	}()
	return d
}

// finish waits until all is read, at most for the time-out, and reports whether it
// was. Cancelling a context would not end the reading: only its connection does.
func (d *draining) finish(timeout time.Duration) bool {
	select {
	case <-d.done:
		return true
	case <-time.After(timeout):
		d.output.Close()
		<-d.done
		return false
	}
}

// stop ends a container, gently first. ctx may have ended.
func (d *docker) stop(ctx context.Context, id string, cause error, log *slog.Logger) {
	if errors.Is(cause, errHangs) { // it would not hear this either
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	grace := int(graceFor(cause) / time.Second)
	if err := d.client.ContainerStop(ctx, id, containertypes.StopOptions{Timeout: &grace}); err != nil {
		log.Warn("cannot stop the container", "err", err)
		d.options.Observer.EngineFailed(callStop)
	}
}

// graceFor returns how long a container may take to end that is stopped for a cause.
func graceFor(cause error) time.Duration {
	if end, _ := errors.AsType[jobend.End](cause); end == jobend.Cancelled || end == jobend.ClientGone {
		return goneGrace
	}
	return stopGrace
}

// remove removes a container, whether it runs or not. ctx may have ended. What cannot be
// removed now is tried again while no job is there, and before the next.
func (d *docker) remove(ctx context.Context, id string, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	if err := d.forceRemove(ctx, id); err != nil {
		// Also if it is said not to be there: that can be a mistake.
		log.Warn("cannot remove the container", "err", err)
		d.options.Observer.EngineFailed(callRemove)
		d.dirty = true
	}
}

// forceRemove removes a container with its anonymous volumes.
func (d *docker) forceRemove(ctx context.Context, id string) error {
	for {
		err := d.client.ContainerRemove(ctx, id, containertypes.RemoveOptions{Force: true, RemoveVolumes: true})
		if !errdefs.IsConflict(err) {
			return err
		}
		// A removal is under way; but it can fail.
		select {
		case <-time.After(removeInterval):
		case <-ctx.Done():
			return err
		}
	}
}
