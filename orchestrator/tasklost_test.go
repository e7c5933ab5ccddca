package orchestrator

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/test/kit/memengine"
)

// An openEngine says that a container has ended, but does not end its output.
type openEngine struct{ engine.Engine }

func (e openEngine) Create(ctx context.Context, spec engine.Spec) (engine.Container, error) {
	c, err := e.Engine.Create(ctx, spec)
	return openContainer{c}, err
}

type openContainer struct{ engine.Container }

func (c openContainer) Start(ctx context.Context) (engine.Stream, error) {
	s, err := c.Container.Start(ctx)
	return openStream{s, make(chan struct{})}, err
}

type openStream struct {
	engine.Stream
	closed chan struct{}
}

func (s openStream) Copy(stdout, stderr io.Writer) error {
	s.Stream.Copy(stdout, stderr)
	<-s.closed
	return nil
}

func (s openStream) Close() error {
	close(s.closed)
	return s.Stream.Close()
}

// TestTaskOutputStaysOpen runs tasks of the stores' maintenance on an engine that does not end the output of a container
// that has ended. A task ends soon, and at once if a job wants its store: jobs wait for it, and so does a builder that
// shuts down.
func TestTaskOutputStaysOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := builder(t, func(p *memengine.Process) int {
			io.WriteString(p.Stdout, "1000\n")
			return 0
		})
		e := b.local.engine
		b.local.engine = openEngine{e}
		task := stores.Task{Work: "measure", Container: "task", ImageID: "sha256:1", Volume: engine.Volume{Name: "store"}}
		begun := time.Now()
		if _, _, err := b.local.runTask(t.Context(), task); !errors.Is(err, errOutputOpen) {
			t.Errorf("it ends with %v", err)
		}
		if took := time.Since(begun); took != drainTimeout {
			t.Errorf("it took %s", took)
		}
		wanted := errors.New("a job wants the store")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(wanted) })
		begun = time.Now()
		if _, _, err := b.local.runTask(ctx, task); !errors.Is(err, wanted) {
			t.Errorf("when a job wants the store: %v", err)
		}
		if took := time.Since(begun); took != time.Second {
			t.Errorf("it took %s", took)
		}
		if left := names(t, e.(*memengine.Engine)); left != "" {
			t.Errorf("left: %s", left)
		}
	})
}
