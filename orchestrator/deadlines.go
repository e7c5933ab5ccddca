package orchestrator

import (
	"context"
	"fmt"
	"io"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/orchestrator/engine"
)

// Deadlines limit how long a job may take. 0 means no limit.
type Deadlines struct {
	Build   time.Duration // from when it gets the first slot on whose node it can begin to its end
	Silence time.Duration // the longest time without a byte of output
}

// bound returns a context that ends when the deadline Build has passed.
func (d Deadlines) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if d.Build == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, d.Build, &engine.Failure{
		End:    jobend.TimedOut,
		What:   wasCancelled,
		Advice: fmt.Sprintf("It ran longer than %s, the most that a job may (IGLU_BUILD_TIMEOUT).", d.Build),
	})
}

// A watchdog ends a job that prints nothing for too long. It begins with the first output, because the engine may
// need longer before that.
type watchdog struct {
	silence time.Duration
	timer   *time.Timer // nil: silence has no limit
}

// watch returns a watchdog that calls cancel when the job was silent for too long.
func (d Deadlines) watch(cancel context.CancelCauseFunc) *watchdog {
	w := &watchdog{silence: d.Silence}
	if d.Silence > 0 {
		w.timer = time.AfterFunc(d.Silence, func() {
			cancel(&engine.Failure{
				End:    jobend.Silent,
				What:   wasCancelled,
				Advice: fmt.Sprintf("It printed nothing for %s, the longest that a job may be silent (IGLU_SILENCE_TIMEOUT).", d.Silence),
			})
		})
		w.timer.Stop()
	}
	return w
}

// stop stops the watchdog.
func (w *watchdog) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// notice restarts the time, because the job has printed something.
func (w *watchdog) notice() {
	if w.timer != nil {
		w.timer.Reset(w.silence)
	}
}

// over returns a writer that passes writes on to another writer, and reports them to the watchdog.
func (w *watchdog) over(to io.Writer) io.Writer { return watchedWriter{w, to} }

type watchedWriter struct {
	*watchdog
	to io.Writer
}

func (w watchedWriter) Write(p []byte) (int, error) {
	w.notice()
	return w.to.Write(p)
}
