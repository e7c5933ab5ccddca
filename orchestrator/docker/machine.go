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

// describe returns the description of the engine's machine. It asks the engine only once, until the engine was away
// or a container could not be made: for each of the two calls, Podman asks the machine's package manager, which can take a
// second.
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
	if err := checkNames(m.ID, m.Name, m.platform); err != nil {
		return nil, callFailure("describe its machine", err)
	}
	d.logMachine(m)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.machine = m
	return m, nil
}

// logMachine logs what a machine means for jobs, unless the last one meant the same.
func (d *Engine) logMachine(m *machine) {
	settings := m.withoutEffect()
	sandboxed, err := d.usesSandbox(m)
	means := fmt.Sprint(settings, sandboxed, err)
	d.mu.Lock()
	isKnown := d.logged == means
	d.logged = means
	d.mu.Unlock()
	if isKnown {
		return
	}
	if len(settings) > 0 {
		d.log.Warn("the container engine cannot enforce these settings: its machine lacks control groups for them", "settings", settings)
	}
	if err == nil && !sandboxed {
		d.log.Info("the container is the sandbox of builds: Nix's own is not used on this engine")
	} else if err == nil {
		d.log.Info("builds run in Nix's own sandbox")
	}
}

// id returns a unique ID of the engine. Podman has none: it returns a new ID for each call, so its name is used.
func (m *machine) id() string {
	if m.isPodman {
		return m.Name
	}
	return m.ID
}

// limitsCPUs reports whether the engine accepts a limit of CPUs. If its machine cannot enforce one, Docker refuses the
// container, while it only ignores other limits. Such machines are those of most rootless engines, because systemd
// does not delegate that control group by default, and machines whose kernel has no CFS bandwidth control. What Podman
// reports says nothing about that.
func (m *machine) limitsCPUs() bool { return m.isPodman || m.CPUCfsQuota }

// withoutEffect returns the settings for limits of jobs that the engine cannot enforce, as far as it says so.
func (m *machine) withoutEffect() (settings []string) {
	if m.isPodman {
		return nil
	}
	for _, limit := range []struct {
		isEnforced bool
		setting    string
	}{{m.MemoryLimit, "IGLU_JOB_MEMORY"}, {m.CPUCfsQuota, "IGLU_JOB_CPUS"}, {m.PidsLimit, "IGLU_JOB_PIDS"}} {
		if !limit.isEnforced {
			settings = append(settings, limit.setting)
		}
	}
	return settings
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
