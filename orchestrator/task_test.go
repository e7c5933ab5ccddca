package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/test/kit/memengine"
)

// TestTask runs a task of the stores' maintenance, on an engine that works, on one that does not answer, and when it is
// too late.
func TestTask(t *testing.T) { synctest.Test(t, testTask) }

func testTask(t *testing.T) {
	silent := false
	b, _, _ := builder(t, func(p *memengine.Process) int {
		if p.Getenv(jobenv.Maintenance) != "measure" || p.Spec.Store.Name != "store" || !p.Spec.Offline {
			t.Errorf("its container: %+v", p.Spec)
		}
		if !silent {
			fmt.Fprint(p.Stdout, "measuring\n1000\n")
		}
		return 3
	})
	e := b.local.engine.(*memengine.Engine)
	task := stores.Task{Work: "measure", Container: "task", ImageID: "sha256:1", Volume: engine.Volume{Name: "store"}}
	if code, last, err := b.local.runTask(t.Context(), task); code != 3 || last != "1000" || err != nil {
		t.Errorf("got %d, %q, %v", code, last, err)
	}
	late := errors.New("too late")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(late)
	if _, _, err := b.local.runTask(ctx, task); !errors.Is(err, late) {
		t.Errorf("when it is too late: %v", err)
	}
	silent = true // nobody reads what a container prints whose start has failed
	for _, call := range []string{"Info", "Start"} {
		e.Fail = func(c string) error {
			if c == call {
				return errAway
			}
			return nil
		}
		if _, _, err := b.local.runTask(t.Context(), task); !errors.Is(err, errAway) {
			t.Errorf("%s fails: %v", call, err)
		}
	}
	if left := names(t, e); left != "" {
		t.Errorf("left: %s", left)
	}
}

// TestTaskWithoutImage runs a task in a store whose image was removed from the engine: its container has the present job
// image. Without that one, too, the task does not run.
func TestTaskWithoutImage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := builder(t, func(p *memengine.Process) int {
			fmt.Fprintln(p.Stdout, p.Spec.Image, p.Getenv(jobenv.Maintenance))
			return 0
		})
		e := b.local.engine.(*memengine.Engine)
		e.Images = []string{"sha256:1"}
		task := stores.Task{Container: "task", Volume: engine.Volume{Name: "store"}, ImageID: "sha256:gone", Work: jobenv.MaintenanceCheck}
		code, last, err := b.local.runTask(t.Context(), task)
		if got := fmt.Sprint(code, " ", last, " ", err); got != "0 sha256:1 check <nil>" {
			t.Errorf("got %s", got)
		}
		e.Images = []string{"sha256:other"}
		if _, _, err := b.local.runTask(t.Context(), task); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("without the job image: %v", err)
		}
		if left := names(t, e); left != "" {
			t.Errorf("left: %s", left)
		}
	})
}
