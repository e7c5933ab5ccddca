package docker

import (
	"encoding/json"
	"slices"

	containertypes "github.com/docker/docker/api/types/container"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"iglu.sh/builder/orchestrator/engine"
)

// This file lets Nix use its own sandbox inside a job's container, where that is safe.
//
// The sandbox mounts a /proc of its own, which the kernel allows only to a process that sees
// all of the one it has. So the container's /proc cannot be masked, and then root in it can
// write the settings of the host's kernel, unless that root is nobody on the host: on an
// engine with user namespaces. And the engine has to take a seccomp profile from its client,
// which Podman does not.

// A Sandbox says when Nix is to use its own.
type Sandbox string

// The settings of the sandbox.
const (
	SandboxAuto Sandbox = "auto" // where it works and is safe
	SandboxOn   Sandbox = "on"   // always; where it is not safe, the job is refused
	SandboxOff  Sandbox = "off"
)

// hasUserNamespaces reports whether root in a container is nobody on the engine's machine.
func hasUserNamespaces(machine *machine) bool {
	return slices.ContainsFunc(machine.SecurityOptions, func(option string) bool {
		return option == "name=userns" || option == "name=rootless"
	})
}

// usesSandbox reports whether Nix is to use its sandbox on a machine.
func (d *Engine) usesSandbox(machine *machine) (bool, error) {
	switch {
	case d.options.Sandbox == SandboxOff:
		return false, nil
	case machine.isPodman && d.options.Sandbox == SandboxOn:
		return false, &engine.Failure{
			What: "Nix's own sandbox (IGLU_NIX_SANDBOX=on) does not work on Podman, " +
				"which takes the seccomp profile that it needs only as a file on its own machine.",
			Advice: "Set IGLU_NIX_SANDBOX to auto: then the container is the sandbox.",
		}
	case machine.isPodman:
		return false, nil
	case hasUserNamespaces(machine):
		return true, nil
	case d.options.Sandbox == SandboxOn && !d.options.SandboxUnsafe:
		return false, &engine.Failure{
			What: "Nix's own sandbox (IGLU_NIX_SANDBOX=on) would open a way out of the container on this container engine, which has no user namespaces.",
			Advice: "Run the engine rootless or with userns-remap, or set IGLU_NIX_SANDBOX to auto; " +
				"IGLU_NIX_SANDBOX_UNSAFE=yes is for builders whose every job may be trusted with the machine.",
		}
	default:
		return d.options.Sandbox == SandboxOn, nil
	}
}

// sandboxCalls are the system calls of Nix's sandbox that the default seccomp profile
// refuses without CAP_SYS_ADMIN.
var sandboxCalls = []string{"chroot", "clone", "mount", "pivot_root", "setdomainname", "sethostname", "umount2", "unshare"}

// seccompProfile returns the default profile of current engines and some more calls.
func seccompProfile(calls ...string) string {
	profile := seccomp.DefaultProfile()
	if len(calls) > 0 {
		profile.Syscalls = append(profile.Syscalls, &seccomp.Syscall{
			LinuxSyscall: specs.LinuxSyscall{Names: calls, Action: specs.ActAllow},
		})
	}
	text, err := json.Marshal(profile)
	if err != nil {
		panic("docker: a seccomp profile always encodes: " + err.Error())
	}
	return string(text)
}

var defaultProfile, sandboxProfile = seccompProfile(), seccompProfile(sandboxCalls...)

// restrictCalls has a container be refused the system calls that the default profile of current
// engines refuses, on an engine whose own default may be older: that of Docker 20.10 has sockets
// of the machine's hypervisor (AF_VSOCK), which know no network namespace, and io_uring. An engine
// for which somebody has chosen a profile keeps that; Podman takes none from its client.
func restrictCalls(c *containertypes.HostConfig, machine *machine) {
	isDefault := func(option string) bool {
		return option == "name=seccomp,profile=default" || option == "name=seccomp,profile=builtin"
	}
	if !machine.isPodman && slices.ContainsFunc(machine.SecurityOptions, isDefault) {
		c.SecurityOpt = append(c.SecurityOpt, "seccomp="+defaultProfile)
	}
}

// allowSandbox widens a container's settings by what Nix's sandbox needs, and no more.
func allowSandbox(c *containertypes.HostConfig) {
	// AppArmor's profile for containers refuses every mount.
	c.SecurityOpt = append(c.SecurityOpt, "seccomp="+sandboxProfile, "apparmor=unconfined")
	c.MaskedPaths, c.ReadonlyPaths = []string{}, []string{}
}
