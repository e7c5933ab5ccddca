package orchestrator

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/test/kit/memengine"
)

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
