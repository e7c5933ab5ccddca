package docker

import (
	"context"
	"fmt"
	"slices"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/system"

	"iglu.sh/builder/orchestrator/engine"
)

// A machine describes the engine and its machine.
type machine struct {
	system.Info
	platform string // OS/ARCH, with Go's names
	isPodman bool
}

// describe returns the description of the engine's machine. It asks the engine only once: for each of the two calls,
// Podman asks the machine's package manager, which can take a second.
func (d *Engine) describe(ctx context.Context) (*machine, error) {
	d.mu.Lock()
	known := d.machine
	d.mu.Unlock()
	if known != nil {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := d.client.Info(ctx)
	if err != nil {
		return nil, callFailure("describe its machine", err)
	}
	version, err := d.client.ServerVersion(ctx)
	if err != nil {
		return nil, callFailure("describe its machine", err)
	}
	m := &machine{
		Info:     info,
		platform: version.Os + "/" + version.Arch,
		isPodman: slices.ContainsFunc(version.Components, func(c types.ComponentVersion) bool { return c.Name == "Podman Engine" }),
	}
	if sandboxed, err := d.usesSandbox(m); err == nil && !sandboxed {
		d.log.Info("the container is the sandbox of builds: Nix's own is not used on this engine")
	} else if err == nil {
		d.log.Info("builds run in Nix's own sandbox")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.machine = m
	return m, nil
}

// id returns a unique ID of the engine. Podman has none: it returns a new ID for each call, so its name is used.
func (m *machine) id() string {
	if m.isPodman {
		return m.Name
	}
	return m.ID
}

// checkPlatform refuses a machine that cannot run programs for a platform.
func (m *machine) checkPlatform(program string) error {
	if m.platform != program {
		return &engine.Failure{
			What:   fmt.Sprintf("The container engine runs %s, but this builder is made for %s.", m.platform, program),
			Advice: "Use an iglu-builder made for the engine's platform.",
		}
	}
	return nil
}
