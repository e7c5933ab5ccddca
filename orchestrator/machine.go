package orchestrator

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/system"
)

// A machine is what the engine says of itself and of where it runs.
type machine struct {
	system.Info
	platform string // OS/ARCH, as Go names them
	isPodman bool
}

// ensureMachine returns what the engine says of its machine, asked once: for either answer
// Podman asks the machine's package manager, which can take a second.
func (d *docker) ensureMachine(ctx context.Context, log *slog.Logger) (*machine, error) {
	if d.machine != nil {
		return d.machine, nil
	}
	info, err := d.client.Info(ctx)
	if err != nil {
		return nil, err
	}
	version, err := d.client.ServerVersion(ctx)
	if err != nil {
		return nil, err
	}
	d.machine = &machine{
		Info:     info,
		platform: version.Os + "/" + version.Arch,
		isPodman: slices.ContainsFunc(version.Components, func(c types.ComponentVersion) bool { return c.Name == "Podman Engine" }),
	}
	if sandboxed, err := d.usesSandbox(d.machine); err == nil && !sandboxed {
		log.Info("the container is the sandbox of builds: Nix's own is not used on this engine")
	} else if err == nil {
		log.Info("builds run in Nix's own sandbox")
	}
	return d.machine, nil
}

// checkPlatform refuses a machine that cannot run this program.
func (m *machine) checkPlatform() error {
	if own := runtime.GOOS + "/" + runtime.GOARCH; m.platform != own {
		return &failure{
			what:   fmt.Sprintf("The container engine runs %s, but this builder is made for %s.", m.platform, own),
			advice: "Use an iglu-builder made for the engine's platform.",
		}
	}
	return nil
}

// forget has everything about the engine looked up anew: something may be gone that was
// there, or there of which we were not told.
func (d *docker) forget() { d.program, d.machine, d.dirty = nil, nil, true }
