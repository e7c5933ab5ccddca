package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/stores"
)

// maxLast is how many bytes of a task's output are kept. The output needs a limit, because the task runs programs of
// the store, in which a job may have put anything.
const maxLast = 4 << 10

// runTask runs a task of the stores' maintenance in a container. It is a stores.Runner.
func (n *node) runTask(ctx context.Context, task stores.Task) (code int, last string, err error) {
	ctx, stopWatching := n.watch(ctx)
	defer stopWatching()
	info, err := n.engine.Info(ctx)
	if err != nil {
		return 0, "", err
	}
	env := jobenv.Job{Maintenance: task.Work}
	spec := n.spec(task.Container, info, &env)
	spec.Image, spec.Store, spec.Offline, spec.Env = task.ImageID, task.Volume, true, env.Environ()
	c, err := n.createForTask(ctx, spec)
	if err != nil {
		return 0, "", err
	}
	r := &run{b: n.b, node: n, log: n.b.log.With("store", task.Volume.Name)}
	defer n.remove(ctx, c, r.log)
	if err := ctx.Err(); err != nil {
		return 0, "", context.Cause(ctx)
	}
	var out lastBytes
	code, err = r.followTask(ctx, c, &out)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return code, lines[len(lines)-1], err
}

// createForTask creates the container of a task. If the image that the store was filled from is not on the engine any
// more, it uses the present job image: all that a task needs is in the store.
func (n *node) createForTask(ctx context.Context, spec engine.Spec) (engine.Container, error) {
	c, err := n.engine.Create(ctx, spec)
	if !errors.Is(err, engine.ErrNotFound) {
		return c, err
	}
	image, imageErr := n.engine.Image(ctx, func(string) {})
	if imageErr != nil {
		return nil, err
	}
	spec.Image = image.ID
	return n.engine.Create(ctx, spec)
}

// followTask starts a container, writes its output to out, and waits for its end.
func (r *run) followTask(ctx context.Context, c engine.Container, out io.Writer) (code int, err error) {
	stream, err := c.Start(ctx)
	if err != nil {
		return 0, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		stream.Copy(out, io.Discard)
	}()
	defer func() {
		stream.Close()
		<-done
	}()
	defer sendHeartbeat(stream)()
	exited, stopWaiting := awaitExit(ctx, c)
	defer stopWaiting()
	select {
	case how := <-exited:
		if how.err != nil {
			return 0, how.err
		}
		select {
		case <-done:
			return how.Code, nil
		case <-time.After(drainTimeout):
			return 0, errOutputOpen // its last line may be missing
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	case <-ctx.Done():
		cause := context.Cause(ctx)
		if !isSilent(cause) {
			r.stop(ctx, c, cause)
		}
		return 0, cause
	}
}

var errOutputOpen = fmt.Errorf("the engine has not passed on all output of the container within %s after its end", drainTimeout)

// lastBytes keeps the last maxLast bytes that are written to it.
type lastBytes []byte

func (t *lastBytes) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	*t = slices.Delete(*t, 0, max(0, len(*t)-maxLast))
	return len(p), nil
}

var _ stores.Runner = (*node)(nil).runTask
