package docker

import (
	"fmt"

	containertypes "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/orchestrator/engine"
)

// This file has the settings that prevent a job from leaving its container. docs/security.md says what each setting
// prevents, and what none of them prevents.

// capabilities are the capabilities that Nix needs to build as root with its build users. All others are dropped. Without
// DAC_OVERRIDE, Nix does not fail but hangs: its builder cannot open its own terminal.
var capabilities = []string{"CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"}

const (
	// cpuWeight is half the weight of an ordinary container: if a job and another container want the same CPU,
	// the other container gets more of it.
	cpuWeight = 512
	// oomScore makes the kernel kill jobs first when the machine runs out of memory. An ordinary process has
	// 0; the maximum is 1000.
	oomScore = 500
	// tmpShare is the share of a job's memory that files in /tmp may use.
	tmpShare = 0.5
)

// hostConfig returns the settings of a container. The container gets a network and the volume with its program, and
// nothing else from the machine.
func hostConfig(spec engine.Spec, networkID, program string) *containertypes.HostConfig {
	return &containertypes.HostConfig{
		LogConfig:   containertypes.LogConfig{Type: "none"}, // the builder writes the log
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
		Init:        new(bool), // an engine's init would be PID 1, and the job could read the secrets in its environment
		OomScoreAdj: oomScore,
		Resources: containertypes.Resources{
			Memory:     spec.Memory,
			MemorySwap: spec.Memory, // memory and swap together: no swap
			NanoCPUs:   int64(spec.CPUs * 1e9),
			CPUShares:  cpuWeight,
			PidsLimit:  &spec.PIDs,
		},
	}
}
