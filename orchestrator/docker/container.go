package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	containertypes "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/pkg/stdcopy"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/orchestrator/engine"
)

const (
	// startTimeout bounds the start of a container. It is shorter than the time after which
	// another builder takes a container that has not started for one that nobody wants.
	startTimeout = 45 * time.Second
	// removeTimeout bounds the removal of a container, the stop included.
	removeTimeout = 30 * time.Second
	// removeInterval is how often that is tried while somebody else removes it, too.
	removeInterval = 100 * time.Millisecond
	// stopTimeout is how long a container may take to end that somebody else stops. Podman
	// would kill it at once.
	stopTimeout = 10 * time.Second
)

// Create implements engine.Engine.
func (d *Engine) Create(ctx context.Context, spec engine.Spec) (engine.Container, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	id, err := d.create(ctx, spec)
	if errors.Is(err, engine.ErrInUse) {
		return nil, err
	}
	if err != nil {
		d.forget() // the image may be gone, or the network
		return nil, callFailure("make the container", err)
	}
	return &container{engine: d, id: id}, nil
}

func (d *Engine) create(ctx context.Context, spec engine.Spec) (id string, err error) {
	m, err := d.describe(ctx)
	if err != nil {
		return "", err
	}
	if err := m.checkPlatform(d.program.madeFor()); err != nil {
		return "", err
	}
	sandboxed, err := d.usesSandbox(m)
	if err != nil {
		return "", err
	}
	networkID := noNetwork
	if !spec.Offline {
		if networkID, err = d.network.ensure(ctx, d.lock("network", spec.Image)); err != nil {
			return "", callFailure(callNetwork, err)
		}
	}
	program, err := d.program.ensure(ctx, d.lock("program", spec.Image), d.Remove)
	if err != nil {
		return "", callFailure("take the builder's program", err)
	}
	host := hostConfig(spec, networkID, program)
	if sandboxed {
		allowSandbox(host)
	} else {
		restrictCalls(host, m)
	}
	if spec.Store.Name != "" {
		host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeVolume, Source: spec.Store.Name, Target: "/nix",
			VolumeOptions: &mount.VolumeOptions{Labels: d.labelled(spec.Store.Labels)}})
	}
	created, err := d.client.ContainerCreate(ctx, configOf(spec, d.labelled(spec.Labels)), host, nil, nil, spec.Name)
	if isNameTaken(err) {
		return "", fmt.Errorf("make the container %s: %w", spec.Name, engine.ErrInUse)
	}
	return created.ID, err
}

// lock returns what keeps builders of the instance from making a thing at the same time.
func (d *Engine) lock(what, imageID string) nameLock {
	return nameLock{engine: d, name: "iglu-" + what + "-" + d.options.Instance, image: imageID}
}

// configOf returns what a container runs.
func configOf(spec engine.Spec, labels map[string]string) *containertypes.Config {
	grace := int(stopTimeout / time.Second)
	return &containertypes.Config{
		Image:       spec.Image,
		Entrypoint:  []string{path.Join(jobenv.Mount, jobenv.Program), "job"},
		Cmd:         []string{},
		Env:         spec.Env,
		User:        "0",
		WorkingDir:  "/",
		StopSignal:  "SIGTERM",
		StopTimeout: &grace,
		Labels:      labels,
		Healthcheck: &containertypes.HealthConfig{Test: []string{"NONE"}},
		// The lifeline ends with our connection; see jobenv.Heartbeat.
		OpenStdin: true, StdinOnce: true,
	}
}

// labelled returns labels and the instance's.
func (d *Engine) labelled(labels map[string]string) map[string]string {
	all := map[string]string{engine.LabelInstance: d.options.Instance}
	maps.Copy(all, labels)
	return all
}

// isNameTaken reports whether there is a container of the name that one was to get. Podman says it
// with another status.
func isNameTaken(err error) bool {
	return err != nil && (errdefs.IsConflict(err) || strings.Contains(err.Error(), "already in use"))
}

// mine selects what carries the instance's label. With a second label, Podman would select
// volumes that carry either.
func (d *Engine) mine() filters.Args {
	return filters.NewArgs(filters.Arg("label", engine.LabelInstance+"="+d.options.Instance))
}

// List implements engine.Engine.
func (d *Engine) List(ctx context.Context) ([]engine.Listed, error) {
	if err := d.ping(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, err := d.client.ContainerList(ctx, containertypes.ListOptions{All: true, Filters: d.mine()})
	if err != nil {
		return nil, callFailure("list containers", err)
	}
	var all []engine.Listed
	for _, c := range found {
		listed := engine.Listed{ID: c.ID, State: stateOf(c.State), Labels: c.Labels}
		if len(c.Names) > 0 {
			listed.Name = strings.TrimPrefix(c.Names[0], "/")
		}
		all = append(all, listed)
	}
	return all, nil
}

// AnyRunning reports whether a container of a builder runs on the engine, of whatever instance.
func (d *Engine) AnyRunning(ctx context.Context) (bool, error) {
	if err := d.ping(ctx); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	only := filters.NewArgs(filters.Arg("label", engine.LabelInstance), filters.Arg("status", "running"))
	found, err := d.client.ContainerList(ctx, containertypes.ListOptions{Filters: only})
	return len(found) > 0, callFailure("list containers", err)
}

func stateOf(state string) engine.State {
	switch state {
	case "created", "configured": // Podman's word
		return engine.Created
	case "exited", "dead", "stopped", "removing":
		return engine.Ended
	}
	return engine.Running
}

// Remove implements engine.Engine.
func (d *Engine) Remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	for {
		err := d.client.ContainerRemove(ctx, id, containertypes.RemoveOptions{Force: true, RemoveVolumes: true})
		switch {
		case errdefs.IsNotFound(err):
			return nil
		case !errdefs.IsConflict(err):
			return callFailure("remove the container", err)
		}
		// A removal is under way; but it can fail.
		select {
		case <-time.After(removeInterval):
		case <-ctx.Done():
			return callFailure("remove the container", err)
		}
	}
}

// A container is an engine.Container.
type container struct {
	engine *Engine
	id     string
	ended  <-chan exit // gets how it ended, once it has started
	stop   func()      // ends the wait for that
}

func (c *container) ID() string { return c.id }

// Start implements engine.Container. The order is what makes no byte and no exit code get lost:
// attach and wait are both in place before start.
func (c *container) Start(ctx context.Context) (engine.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	output, err := c.attach(ctx)
	if err != nil {
		c.engine.forget() // for Podman, this is a part of the start
		return nil, callFailure("attach to the container", err)
	}
	waiting, stopWaiting := context.WithCancel(context.WithoutCancel(ctx))
	keepWaiting := context.AfterFunc(ctx, stopWaiting)
	c.ended, c.stop = c.awaitNextExit(waiting), stopWaiting
	keepWaiting() // what follows may take as long as the job does
	if err := c.engine.client.ContainerStart(ctx, c.id, containertypes.StartOptions{}); err != nil {
		output.Close()
		stopWaiting()
		c.engine.forget() // it may be the program that is gone from its volume
		return nil, callFailure("start the container", err)
	}
	return stream{output}, nil
}

// attach connects to the container's input and output. The engine's client waits for the answer
// to that for ever; this, until ctx ends.
func (c *container) attach(ctx context.Context) (types.HijackedResponse, error) {
	var output types.HijackedResponse
	attached := make(chan error, 1)
	go func() {
		var err error
		output, err = c.engine.client.ContainerAttach(ctx, c.id, containertypes.AttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
		attached <- err
	}()
	select {
	case err := <-attached:
		return output, err
	case <-ctx.Done():
		go func() {
			if <-attached == nil {
				output.Close()
			}
		}()
		return types.HijackedResponse{}, context.Cause(ctx)
	}
}

// Wait implements engine.Container.
func (c *container) Wait(ctx context.Context) (engine.Exit, error) {
	select {
	case end := <-c.ended:
		if end.err != nil {
			return engine.Exit{}, callFailure("wait for the container", end.err)
		}
		return engine.Exit{Code: end.code, OutOfMemory: end.code != 0 && c.ranOutOfMemory(ctx)}, nil
	case <-ctx.Done():
		return engine.Exit{}, context.Cause(ctx)
	}
}

// ranOutOfMemory reports whether the container has ended for want of memory, as far as the engine
// can be asked.
func (c *container) ranOutOfMemory(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, err := c.engine.client.ContainerInspect(ctx, c.id)
	if err != nil {
		c.engine.log.Warn("cannot see whether the container ran out of memory", "container", c.id, "err", err)
		return false
	}
	return found.State != nil && found.State.OOMKilled
}

// Stop implements engine.Container.
func (c *container) Stop(ctx context.Context, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	seconds := int(grace / time.Second)
	return callFailure("stop the container", c.engine.client.ContainerStop(ctx, c.id, containertypes.StopOptions{Timeout: &seconds}))
}

// Remove implements engine.Container.
func (c *container) Remove(ctx context.Context) error {
	if c.stop != nil {
		c.stop()
	}
	return c.engine.Remove(ctx, c.id)
}

// exit is how a container ended.
type exit struct {
	code int
	err  error
}

// awaitNextExit sends how the container ends, which is about to start. It returns when
// the engine has begun to watch.
func (c *container) awaitNextExit(ctx context.Context) <-chan exit {
	client := c.engine.client
	exited, lost := client.ContainerWait(ctx, c.id, containertypes.WaitConditionNextExit)
	ended := make(chan exit, 1)
	go func() {
		end, isSure := exitOf(exited, lost)
		if !isSure {
			// Podman at times fails to read what it has just written.
			end, _ = exitOf(client.ContainerWait(ctx, c.id, containertypes.WaitConditionNotRunning))
		}
		ended <- end
	}()
	return ended
}

// exitOf waits for the answer of a wait. It is not sure when the engine has noticed an end,
// but cannot say which.
func exitOf(exited <-chan containertypes.WaitResponse, lost <-chan error) (end exit, isSure bool) {
	// The client's own goroutine ends only when somebody takes what it found.
	select {
	case status := <-exited:
		if status.Error != nil {
			return exit{err: errors.New(status.Error.Message)}, false
		}
		return exit{code: int(status.StatusCode)}, true
	case err := <-lost:
		return exit{err: err}, true
	}
}

// A stream is an engine.Stream.
type stream struct{ attached types.HijackedResponse }

// Write implements io.Writer. An engine that takes nothing does not hold up the writer for long.
func (s stream) Write(p []byte) (int, error) {
	s.attached.Conn.SetWriteDeadline(time.Now().Add(jobenv.Heartbeat))
	return s.attached.Conn.Write(p)
}

// Copy implements engine.Stream. Cancelling a context would not end it: only Close does.
func (s stream) Copy(stdout, stderr io.Writer) error {
	var written error // the first error of a writer, which is not the engine's
	_, err := stdcopy.StdCopy(&noting{stdout, &written}, &noting{stderr, &written}, s.attached.Reader)
	switch {
	case written != nil:
		return written
	case errors.Is(err, net.ErrClosed):
		return nil
	}
	return callFailure("pass on the container's output", err)
}

// A noting writer notes the error of the one behind it.
type noting struct {
	io.Writer
	err *error
}

func (w *noting) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if err != nil {
		*w.err = err
	}
	return n, err
}

// Close implements io.Closer.
func (s stream) Close() error { s.attached.Close(); return nil }
