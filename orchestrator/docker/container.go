package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	containertypes "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/client"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/orchestrator/engine"
)

const (
	// startTimeout is how long the start of a container may take, unless the engine fills a store then. It is
	// shorter than the time after which another builder removes a container that has not started. The same is true
	// of engine.FillTimeout and containers with engine.LabelFills.
	startTimeout = 45 * time.Second
	// removeTimeout is how long the removal of a container may take, including its stop.
	removeTimeout = 30 * time.Second
	// removeInterval is how often the removal is tried again while another removal is in progress.
	removeInterval = 100 * time.Millisecond
	// stopTimeout is how long a container may take to end if somebody else stops it. Without it, Podman would
	// kill the container immediately.
	stopTimeout = 10 * time.Second
)

// Create implements engine.Engine.
func (d *Engine) Create(ctx context.Context, spec engine.Spec) (engine.Container, error) {
	c, err := d.create(ctx, spec)
	if errors.Is(err, engine.ErrInUse) {
		return nil, err
	}
	if err != nil {
		d.forget() // the image or the network may be missing
		return nil, callFailure("make the container", err)
	}
	return c, nil
}

func (d *Engine) create(ctx context.Context, spec engine.Spec) (*container, error) {
	host, m, err := d.prepare(ctx, spec)
	if err != nil {
		return nil, err
	}
	c := &container{engine: d, startTimeout: startTimeout}
	labels := d.labelled(spec.Labels)
	if spec.Fresh && m.isPodman { // it copies the image into the store when the container is mounted: in attach
		c.startTimeout = engine.FillTimeout
		labels[engine.LabelFills] = "true"
	}
	timeout := callTimeout
	if spec.Store.Name != "" {
		timeout = engine.FillTimeout
		host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeVolume, Source: spec.Store.Name, Target: "/nix",
			VolumeOptions: &mount.VolumeOptions{Labels: d.labelled(spec.Store.Labels)}})
	}
	created, err := createWithin(ctx, timeout, d.client, configOf(spec, labels), host, spec.Name)
	if isNameTaken(err) {
		return nil, fmt.Errorf("make the container %s: %w", spec.Name, engine.ErrInUse)
	}
	c.id = created.ID
	return c, err
}

// prepare provides what a container needs besides its store. It returns the container's settings and the engine's machine.
func (d *Engine) prepare(ctx context.Context, spec engine.Spec) (*containertypes.HostConfig, *machine, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	m, err := d.describe(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := m.checkPlatform(d.program.madeFor()); err != nil {
		return nil, nil, err
	}
	sandboxed, err := d.usesSandbox(m)
	if err != nil {
		return nil, nil, err
	}
	networkID := noNetwork
	if !spec.Offline {
		if networkID, err = d.network.ensure(ctx, d.lock("network", spec.Image)); err != nil {
			return nil, nil, callFailure(callNetwork, err)
		}
	}
	program, err := d.program.ensure(ctx, d.lock("program", spec.Image), d.Remove)
	if err != nil {
		return nil, nil, callFailure("take the builder's program", err)
	}
	host := hostConfig(spec, networkID, program)
	if !m.limitsCPUs() {
		host.NanoCPUs = 0
	}
	if sandboxed {
		if err := d.checkNamespaces(ctx); err != nil {
			return nil, nil, err
		}
		allowSandbox(host)
	} else {
		restrictCalls(host, m)
		forbidLinks(host)
	}
	return host, m, nil
}

// createContainer creates a container, unless ctx has ended. It does not end with ctx: see outliving.
func createContainer(ctx context.Context, c *client.Client, config *containertypes.Config,
	host *containertypes.HostConfig, name string) (made containertypes.CreateResponse, err error) {
	return createWithin(ctx, callTimeout, c, config, host, name)
}

// createWithin is createContainer with another time-out: see outlivingFor.
func createWithin(ctx context.Context, timeout time.Duration, c *client.Client, config *containertypes.Config,
	host *containertypes.HostConfig, name string) (made containertypes.CreateResponse, err error) {
	if ctx.Err() != nil {
		return made, context.Cause(ctx)
	}
	ctx, cancel := outlivingFor(ctx, timeout)
	defer cancel()
	made, err = c.ContainerCreate(ctx, config, host, nil, nil, name)
	if errdefs.IsNotFound(err) {
		err = imageGone{err}
	}
	return made, err
}

// An imageGone is the error of an engine that does not have the image of a container.
type imageGone struct{ error }

func (e imageGone) Is(target error) bool { return target == engine.ErrNotFound }
func (e imageGone) Unwrap() error        { return e.error }

// outliving returns a context for calls that create something. It does not end with ctx, but after callTimeout: an engine
// goes on with such a call when its client has gone, and nobody would know what it creates.
func outliving(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
}

// outlivingFor is outliving with a longer time-out. When ctx ends, because nobody needs the container any more or the engine
// hangs, callTimeout applies from then on.
func outlivingFor(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(callTimeout)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-longer.Done():
		}
	})
	return longer, func() {
		stop()
		cancel()
	}
}

// lock returns the lock for creating a thing, so that only one builder of the instance creates it at a time.
func (d *Engine) lock(what, imageID string) nameLock {
	return nameLock{engine: d, name: "iglu-" + what + "-" + d.options.Instance, image: imageID}
}

// configOf returns the configuration of a container: its image, program and environment.
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
		// Standard input ends with the builder's connection; see jobenv.Heartbeat.
		OpenStdin: true, StdinOnce: true,
	}
}

// labelled returns labels with the label of the instance added.
func (d *Engine) labelled(labels map[string]string) map[string]string {
	all := map[string]string{engine.LabelInstance: d.options.Instance}
	maps.Copy(all, labels)
	return all
}

// isNameTaken reports whether a container was not created because its name is in use. Podman answers that with another
// status than Docker.
func isNameTaken(err error) bool {
	return err != nil && (errdefs.IsConflict(err) || strings.Contains(err.Error(), "already in use"))
}

// mine is a filter for things with the instance's label. It has only one label: with two, Podman would return volumes
// that have either of them.
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
		if _, inUse := d.helpers.Load(c.ID); inUse { // even if it is for minutes, because the network is slow
			continue
		}
		listed := engine.Listed{ID: c.ID, State: stateOf(c.State), Labels: c.Labels}
		if len(c.Names) > 0 {
			listed.Name = strings.TrimPrefix(c.Names[0], "/")
		}
		all = append(all, listed)
	}
	return all, nil
}

// AnyRunning reports whether a container of any builder runs on the engine, whatever its instance.
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
		// Another removal is in progress. It can fail, so this is tried again.
		select {
		case <-time.After(removeInterval):
		case <-ctx.Done():
			return callFailure("remove the container", err)
		}
	}
}

// A container implements engine.Container.
type container struct {
	engine       *Engine
	id           string
	startTimeout time.Duration
	ended        <-chan exit // gets how the container ended; nil before the start
	stop         func()      // ends the wait for the container's end; nil before the start
}

func (c *container) ID() string { return c.id }

// Start implements engine.Container. It attaches to the container and begins to wait for its end before it starts it: so
// no byte and no exit code is lost.
func (c *container) Start(ctx context.Context) (engine.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, c.startTimeout)
	defer cancel()
	output, err := c.attach(ctx)
	if err != nil {
		c.engine.forget() // for Podman, attaching is a part of the start
		return nil, callFailure("attach to the container", err)
	}
	waiting, stopWaiting := context.WithCancel(context.WithoutCancel(ctx))
	keepWaiting := context.AfterFunc(ctx, stopWaiting)
	c.ended, c.stop = c.awaitNextExit(waiting), stopWaiting
	keepWaiting() // the wait must not end with the time-out of the start
	if err := c.engine.client.ContainerStart(ctx, c.id, containertypes.StartOptions{}); err != nil {
		output.Close()
		stopWaiting()
		c.engine.forget() // the program may be missing from its volume
		return nil, callFailure("start the container", err)
	}
	return stream{output}, nil
}

// attach connects to the container's input and output. It returns when ctx ends, although the engine's client would wait
// for the answer without a limit.
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

// ranOutOfMemory reports whether the container has ended because memory ran out. It returns false if the engine does not
// answer.
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

// exit says how a container ended.
type exit struct {
	code int
	err  error
}

// awaitNextExit returns a channel that gets how the container ends. The container starts later: awaitNextExit returns when
// the engine has begun to wait for its end.
func (c *container) awaitNextExit(ctx context.Context) <-chan exit {
	client := c.engine.client
	exited, lost := client.ContainerWait(ctx, c.id, containertypes.WaitConditionNextExit)
	ended := make(chan exit, 1)
	go func() {
		end, isSure := exitOf(exited, lost)
		if !isSure {
			// Podman sometimes fails to read the exit code that it has just written.
			end, _ = exitOf(client.ContainerWait(ctx, c.id, containertypes.WaitConditionNotRunning))
		}
		ended <- end
	}()
	return ended
}

// exitOf waits for the engine's answer to a wait. isSure is false if the container has ended, but the engine could not
// read its exit code.
func exitOf(exited <-chan containertypes.WaitResponse, lost <-chan error) (end exit, isSure bool) {
	// The client's goroutine ends only when its result is received.
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
