package orchestrator

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/await"
	"iglu.sh/builder/test/kit/memengine"
)

// endsOnStdout reports on one output only how a job has ended: the engine does not pass on the other's end.
func endsOnStdout(p *memengine.Process, code int) int {
	jobwire.NewWriter(p.Stdout, p.Getenv(jobenv.EventsToken)).Send(jobwire.Record{End: &jobwire.End{ExitCode: code, Reason: "hello failed"}})
	return code
}

// TestEndBeforeFailure breaks the engine right after a job has reported its end. The report decides.
func TestEndBeforeFailure(t *testing.T) {
	for _, call := range []string{"Wait", "Copy"} {
		for code, want := range map[int]schemas.Response{
			0: schemas.Exited(0),
			3: {Error: schemas.Exited(3).Error, Msg: "Hello failed."},
		} {
			synctest.Test(t, func(t *testing.T) {
				b, _, _ := builder(t, nil)
				e := memengine.New(func(p *memengine.Process) int { return endsOnStdout(p, code) })
				e.Fail = func(c string) error {
					if c == call {
						return &engine.Failure{End: jobend.EngineGone, What: "The container engine does not answer.", Cause: errors.New("EOF")}
					}
					return nil
				}
				b.use(e)
				var log await.Log
				got := b.build(t.Context(), secretRequest(), &log).Response
				if got.Error != want.Error || !strings.EqualFold(got.Msg, want.Msg) {
					t.Errorf("%s, %d: %s\n%s", call, code, got.Encode(), log.String())
				}
			})
		}
	}
}

// TestEndBeforeLoss loses a node right after a job has reported its end. The job does not run again.
func TestEndBeforeLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newRetryLab(t, 2)
		l.machines["n1"].Run = func(p *memengine.Process) int {
			code := endsOnStdout(p, 0)
			select {
			case <-p.Lifeline: // the container's end is not reported
			case <-p.Killed:
			}
			return code
		}
		one := l.start("a", "5m")
		time.Sleep(time.Second)
		l.lose("n1")
		one.wantEnd(t, jobend.Exited)
		if strings.Contains(one.log.String(), "runs once more") {
			t.Errorf("it ran again:\n%s", one.log.String())
		}
	})
}

// A settledContext is a context whose Done waits until everything else has happened.
type settledContext struct{ context.Context }

func (c settledContext) Done() <-chan struct{} {
	synctest.Wait()
	return c.Context.Done()
}

// TestEndAtOnce has a job report its end on both outputs, and in the same moment is cancelled, or its engine fails. The
// report decides, each time, and nothing of the log is missing.
func TestEndAtOnce(t *testing.T) {
	away := &engine.Failure{End: jobend.EngineGone, What: "The container engine does not answer."}
	for name, test := range map[string]struct {
		cause error  // of the cancellation; nil: it is not cancelled
		fails string // the call that fails
	}{
		"client gone": {cause: jobend.ClientGone},
		"node lost":   {cause: errNodeLost},
		"output":      {fails: "Copy"},
		"exit":        {fails: "Wait"},
	} {
		bubbled := func(t *testing.T) {
			b, _, _ := builder(t, func(p *memengine.Process) int {
				for _, out := range []io.Writer{p.Stdout, p.Stderr} {
					jobwire.NewWriter(out, "token").Send(jobwire.Record{End: &jobwire.End{ExitCode: 3}})
				}
				return 3
			})
			e := b.local.engine.(*memengine.Engine)
			lines, err := b.logs.Create("job", redact.New())
			if err != nil {
				t.Fatal(err)
			}
			defer lines.Close()
			r := &run{b: b, node: b.local, log: b.log, lines: lines, tracker: newTracker(), env: jobenv.Job{EventsToken: "token"}}
			c, err := e.Create(t.Context(), engine.Spec{Name: "job"})
			if err != nil {
				t.Fatal(err)
			}
			e.Fail = func(call string) error {
				if call == test.fails {
					return away
				}
				return nil
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if test.cause != nil {
				cancel(test.cause)
			}
			code, end, err := r.follow(settledContext{ctx}, &attempt{container: c}, Deadlines{}.watch(cancel))
			if code != 3 || end == nil || err != nil {
				t.Errorf("%s: %d, %v, %v", name, code, end, err)
			}
			if n := lines.Lines(); n > 0 {
				t.Errorf("%s: the log has %d lines", name, n)
			}
			c.Remove(t.Context())
		}
		for range 20 { // an order that is not fixed would be right now and then
			synctest.Test(t, bubbled)
		}
	}
}

// A brokenContainer is a container that goes on running, and whose output breaks: at once, or after the record of its end. It
// is the engine.Stream of itself.
type brokenContainer struct {
	hasEnd  bool
	stopped []time.Duration // the time that it got to end
}

func (c *brokenContainer) ID() string                                   { return "broken" }
func (c *brokenContainer) Start(context.Context) (engine.Stream, error) { return c, nil }
func (c *brokenContainer) Remove(context.Context) error                 { return nil }
func (c *brokenContainer) Write(p []byte) (int, error)                  { return len(p), nil }
func (c *brokenContainer) Close() error                                 { return nil }

func (c *brokenContainer) Wait(ctx context.Context) (engine.Exit, error) {
	<-ctx.Done()
	return engine.Exit{}, context.Cause(ctx)
}

func (c *brokenContainer) Stop(_ context.Context, grace time.Duration) error {
	c.stopped = append(c.stopped, grace)
	return nil
}

func (c *brokenContainer) Copy(stdout, _ io.Writer) error {
	if c.hasEnd {
		jobwire.NewWriter(stdout, "token").Send(jobwire.Record{End: &jobwire.End{ExitCode: 3}})
	}
	return errAway
}

// TestOutputBreaks breaks the output of a container that goes on running. The container is asked to end, unless it has reported
// its end before: then that decides.
func TestOutputBreaks(t *testing.T) {
	for _, hasEnd := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b, _, _ := builder(t, nil)
			lines, err := b.logs.Create("job", redact.New())
			if err != nil {
				t.Fatal(err)
			}
			defer lines.Close()
			r := &run{b: b, node: b.local, log: b.log, lines: lines, tracker: newTracker(), env: jobenv.Job{EventsToken: "token"}}
			c := &brokenContainer{hasEnd: hasEnd}
			code, end, err := r.follow(t.Context(), &attempt{container: c}, Deadlines{}.watch(nil))
			switch {
			case hasEnd && (code != 3 || end == nil || err != nil || len(c.stopped) > 0):
				t.Errorf("with its end: %d, %v, %v, stopped: %v", code, end, err, c.stopped)
			case !hasEnd && (code != 0 || end != nil || !errors.Is(err, errAway) || !slices.Equal(c.stopped, []time.Duration{stopGrace})):
				t.Errorf("without its end: %d, %v, %v, stopped: %v", code, end, err, c.stopped)
			}
		})
	}
}
