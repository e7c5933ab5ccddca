package orchestrator

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/schemas"
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
				var log lockedBuffer
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
			<-p.Lifeline // the container's end is not reported
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
