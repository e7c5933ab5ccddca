package orchestrator

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	containertypes "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"

	"iglu.sh/builder/internal/jobenv"
)

// This file is what keeps a job in its container; docs/security.md says what each measure
// stops, and what none of them does.

// Limits bound what a job may take of the engine's machine.
type Limits struct {
	Memory Amount // in bytes, what is written to /tmp included
	CPUs   Amount
	PIDs   int64 // processes and threads at once
}

// An Amount is so much of what a machine has.
type Amount struct {
	Fixed float64 // if it is not 0, this much
	Share float64 // else this share; 0.75 is three quarters
}

// of returns the amount on a machine that has so much in all.
func (a Amount) of(total float64) float64 {
	if a.Fixed == 0 {
		return a.Share * total
	}
	return min(a.Fixed, total)
}

// capabilities are what Nix needs to build as root with its build users; every other one
// is dropped. Without DAC_OVERRIDE it does not fail but hang: its builder cannot open its
// own terminal.
var capabilities = []string{"CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"}

const (
	// cpuWeight is half of an ordinary container's: where a job and others want the
	// same CPU, the others get more of it.
	cpuWeight = 512
	// oomScore makes a job the first to go when the machine as a whole runs out of
	// memory: an ordinary process has 0, 1000 is the most.
	oomScore = 500
	// tmpShare is how much of a job's memory /tmp may fill.
	tmpShare = 0.5
)

// hostConfig returns the settings of a job's container on a machine: its network, the
// volume with its program, and nothing else of the machine.
func (d *docker) hostConfig(networkID, volume string, machine *machine) *containertypes.HostConfig {
	limits := d.options.Limits
	memory := int64(limits.Memory.of(float64(machine.MemTotal)))
	return &containertypes.HostConfig{
		LogConfig:   containertypes.LogConfig{Type: "none"}, // the log is ours
		NetworkMode: containertypes.NetworkMode(networkID),
		Mounts: []mount.Mount{{
			Type: mount.TypeVolume, Source: volume, Target: jobenv.Mount, ReadOnly: true,
		}},
		Tmpfs: map[string]string{
			"/tmp": fmt.Sprintf("rw,exec,nosuid,nodev,mode=1777,size=%d", int64(tmpShare*float64(memory))),
		},
		CapDrop:     []string{"ALL"},
		CapAdd:      capabilities,
		SecurityOpt: []string{"no-new-privileges"},
		Init:        new(bool), // an engine's own init would be PID 1, with the secrets to be read in it
		OomScoreAdj: oomScore,
		Resources: containertypes.Resources{
			Memory:     memory,
			MemorySwap: memory, // of both together: no swap
			NanoCPUs:   int64(limits.CPUs.of(float64(machine.NCPU)) * 1e9),
			CPUShares:  cpuWeight,
			PidsLimit:  &limits.PIDs,
		},
	}
}

// checkTimeout bounds the questions at the start, which a busy Podman takes seconds to answer.
const checkTimeout = 15 * time.Second

// check returns an error if the engine is not one for the builder's settings.
func (d *docker) check(ctx context.Context, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	machine, err := d.ensureMachine(ctx, log)
	if err != nil {
		return nil // each job finds out for itself
	}
	if _, err := d.usesSandbox(machine); err != nil {
		return err
	}
	if d.options.Network != "" {
		_, _ = d.ensureNetwork(ctx) // which addresses are of jobs; a job says what is wrong
	}
	if d.options.Network != noNetwork {
		log.Info("jobs reach whatever the engine's machine does, its cloud's metadata service included, unless its firewall keeps them: see docs/security.md")
	}
	return nil
}
