package orchestrator

import (
	"context"
	"fmt"
	"io"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/orchestrator/engine"
)

// Deadlines are how long a job may take. 0 is no limit.
type Deadlines struct {
	Build   time.Duration // from its acceptance to its end
	Silence time.Duration // without a byte of output
}

// bound returns a context that ends when a deadline has passed.
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

// A watchdog ends a job that prints nothing for too long, from its first output on: what an engine
// does before that may take longer.
type watchdog struct {
	silence time.Duration
	timer   *time.Timer // nil: silence has no limit
}

// watch returns a watchdog that calls cancel.
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

// stop ends the watch.
func (w *watchdog) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// notice notes that something was printed.
func (w *watchdog) notice() {
	if w.timer != nil {
		w.timer.Reset(w.silence)
	}
}

// over returns a writer that passes on to to what the watchdog notices.
func (w *watchdog) over(to io.Writer) io.Writer { return watchedWriter{w, to} }

type watchedWriter struct {
	*watchdog
	to io.Writer
}

func (w watchedWriter) Write(p []byte) (int, error) {
	w.notice()
	return w.to.Write(p)
}
