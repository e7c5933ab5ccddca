package docker

import (
	"fmt"

	containertypes "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/orchestrator/engine"
)

// This file is what keeps a job in its container; docs/security.md says what each measure
// stops, and what none of them does.

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

// hostConfig returns the settings of a container: its network, the volume with its program, and
// nothing else of the machine.
func hostConfig(spec engine.Spec, networkID, program string) *containertypes.HostConfig {
	return &containertypes.HostConfig{
		LogConfig:   containertypes.LogConfig{Type: "none"}, // the log is ours
		NetworkMode: containertypes.NetworkMode(networkID),
		Mounts: []mount.Mount{{
			Type: mount.TypeVolume, Source: program, Target: jobenv.Mount, ReadOnly: true,
		}},
		Tmpfs: map[string]string{
			"/tmp": fmt.Sprintf("rw,exec,nosuid,nodev,mode=1777,size=%d", int64(tmpShare*float64(spec.Memory))),
		},
		CapDrop:     []string{"ALL"},
		CapAdd:      capabilities,
		SecurityOpt: []string{"no-new-privileges"},
		Init:        new(bool), // an engine's own init would be PID 1, with the secrets to be read in it
		OomScoreAdj: oomScore,
		Resources: containertypes.Resources{
			Memory:     spec.Memory,
			MemorySwap: spec.Memory, // of both together: no swap
			NanoCPUs:   int64(spec.CPUs * 1e9),
			CPUShares:  cpuWeight,
			PidsLimit:  &spec.PIDs,
		},
	}
}
