package orchestrator

import (
	"context"
	"fmt"
	"io"
	"time"

	"iglu.sh/builder/internal/jobend"
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
	return context.WithTimeoutCause(ctx, d.Build, &failure{
		end:    jobend.TimedOut,
		what:   "The job was cancelled.",
		advice: fmt.Sprintf("It ran longer than %s, the most that a job may (IGLU_BUILD_TIMEOUT).", d.Build),
	})
}

// A listener hears whether a job prints something, from the first on: what an engine does
// before that may take longer.
type listener struct {
	silence time.Duration
	timer   *time.Timer // nil: nobody minds silence
}

// listen calls cancel when a job has printed nothing for too long.
func (d Deadlines) listen(cancel context.CancelCauseFunc) *listener {
	l := &listener{silence: d.Silence}
	if d.Silence > 0 {
		l.timer = time.AfterFunc(d.Silence, func() {
			cancel(&failure{
				end:    jobend.Silent,
				what:   "The job was cancelled.",
				advice: fmt.Sprintf("It printed nothing for %s, the longest that a job may be silent (IGLU_SILENCE_TIMEOUT).", d.Silence),
			})
		})
		l.timer.Stop()
	}
	return l
}

// stop ends the listening.
func (l *listener) stop() {
	if l.timer != nil {
		l.timer.Stop()
	}
}

// heard notes that something was printed.
func (l *listener) heard() {
	if l.timer != nil {
		l.timer.Reset(l.silence)
	}
}

// to returns a writer that passes on to w what the listener hears.
func (l *listener) to(w io.Writer) io.Writer { return heardWriter{l, w} }

type heardWriter struct {
	*listener
	to io.Writer
}

func (w heardWriter) Write(p []byte) (int, error) {
	w.heard()
	return w.to.Write(p)
}
