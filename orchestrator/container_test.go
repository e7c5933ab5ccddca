package orchestrator

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/test/kit/fakeengine"
)

// TestEndWithoutRecord runs containers whose program ends without a record of its end. If the exit code is that of a
// success, a part of the output may be missing.
func TestEndWithoutRecord(t *testing.T) {
	for code, want := range map[int]bool{0: true, 3: false} {
		bubble(t, nil, func(t *testing.T, f *fixture) {
			f.engine.Run = func(p *fakeengine.Process) int { return code }
			end := f.do("count")
			end.wantExit(t, code)
			if said := strings.Contains(end.lines, "iglu: the end of the log may be missing: "); said != want {
				t.Errorf("exit code %d: %q", code, end.lines)
			}
		})
	}
}

// TestEndRecords has the records of a job's end arrive in any order: the job ends with the first that makes both outputs
// complete, and once.
func TestEndRecords(t *testing.T) {
	end := new(jobwire.End)
	for _, order := range [][]bool{{false, true}, {true, false}, {false, false, true}, {true, true, false, false, true}} { // of standard error
		o := &output{ended: make(chan struct{})}
		var seen [2]bool
		for _, ofStderr := range order {
			o.take(nil, !ofStderr) // a record of something else
			o.take(end, ofStderr)
			seen[map[bool]int{true: 1}[ofStderr]] = true
			ended := false
			select {
			case <-o.ended:
				ended = true
			default:
			}
			if want := seen == [2]bool{true, true}; ended != want {
				t.Errorf("%t: with %t it has ended: %t", order, seen, ended)
			}
		}
	}
}

// A hangingEngine does not answer any more when a job wants the image.
type hangingEngine struct {
	engine.Engine
	hangs atomic.Bool
}

func (e *hangingEngine) Info(ctx context.Context) (engine.Info, error) {
	if e.hangs.Load() {
		return engine.Info{}, errAway
	}
	return e.Engine.Info(ctx)
}

func (e *hangingEngine) Image(ctx context.Context, _ func(string)) (engine.Image, error) {
	e.hangs.Store(true)
	<-ctx.Done()
	return engine.Image{}, errors.New("the connection was closed")
}

// TestHangsEarly runs a job on an engine that hangs before there is a container: the job ends as one on an engine that
// hangs, whatever the engine's call says.
func TestHangsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := builder(t, nil)
		b.local.engine = &hangingEngine{Engine: b.local.engine}
		ctx, cancel := context.WithTimeout(t.Context(), tooLong)
		defer cancel()
		begun := time.Now()
		last := b.build(ctx, secretRequest(), io.Discard)
		took := time.Since(begun) // with the time that its reader waits for more
		if end, _ := endOf(t, last); end != string(jobend.EngineGone) || last.Response.Error != errHangs.What || took.Round(time.Second) != mostSilent*watchInterval {
			t.Errorf("after %s: %s, %s", took, end, last.Response.Encode())
		}
	})
}
