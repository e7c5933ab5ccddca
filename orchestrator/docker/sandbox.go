package docker

import (
	"context"
	"encoding/json"
	"slices"
	"sync"

	containertypes "github.com/docker/docker/api/types/container"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"iglu.sh/builder/orchestrator/engine"
)

// This file allows Nix to use its own sandbox inside a job's container, where that is safe.
//
// The sandbox mounts its own /proc. The kernel allows that only to a process whose current /proc has no masked paths. But
// if the container's /proc is not masked, root in the container can change settings of the host's kernel. This is safe
// only if root in the container is an unprivileged user on the host: on an engine with user namespaces. The engine must
// also accept a seccomp profile from its client, which Podman does not.

// A Sandbox says when Nix uses its own sandbox.
type Sandbox string

// The settings of the sandbox.
const (
	SandboxAuto Sandbox = "auto" // where it works and is safe
	SandboxOn   Sandbox = "on"   // always; jobs fail where it is not safe
	SandboxOff  Sandbox = "off"
)

// hasUserNamespaces reports whether root in a container is an unprivileged user on the engine's machine.
func hasUserNamespaces(machine *machine) bool {
	return slices.ContainsFunc(machine.SecurityOptions, func(option string) bool {
		return option == "name=userns" || option == "name=rootless"
	})
}

// usesSandbox reports whether Nix uses its sandbox on a machine.
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

// checkNamespaces asks the engine whether it still has user namespaces, if the sandbox is safe only with them. An engine that
// was restarted with other settings may not have been missed by any ping.
func (d *Engine) checkNamespaces(ctx context.Context) error {
	if d.options.Sandbox == SandboxOn && d.options.SandboxUnsafe {
		return nil
	}
	info, err := d.client.Info(ctx)
	if err == nil && !hasUserNamespaces(&machine{Info: info}) {
		return &engine.Failure{What: "The container engine has no user namespaces any more.", Advice: "Send the job again."}
	}
	return callFailure("describe its machine", err)
}

// sandboxCalls are the system calls of Nix's sandbox that the default seccomp profile
// refuses without CAP_SYS_ADMIN.
var sandboxCalls = []string{"chroot", "clone", "mount", "pivot_root", "setdomainname", "sethostname", "umount2", "unshare"}

// seccompProfile returns the default seccomp profile of current engines, which also allows the given system calls.
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

// The profiles are made on their first use: the program starts for each job's container, too, which needs none.
var (
	defaultProfile = sync.OnceValue(func() string { return seccompProfile() })
	sandboxProfile = sync.OnceValue(func() string { return seccompProfile(sandboxCalls...) })
)

// restrictCalls sets the default seccomp profile of current engines for a container, because the engine's own default may
// be older and allow more: that of Docker 20.10 allows io_uring, and sockets to the machine's hypervisor (AF_VSOCK), which
// are not separated by network namespaces. If the engine is configured with another profile, that is used. Podman accepts
// no profile from its client.
func restrictCalls(c *containertypes.HostConfig, machine *machine) {
	isDefault := func(option string) bool {
		return option == "name=seccomp,profile=default" || option == "name=seccomp,profile=builtin"
	}
	if !machine.isPodman && slices.ContainsFunc(machine.SecurityOptions, isDefault) {
		c.SecurityOpt = append(c.SecurityOpt, "seccomp="+defaultProfile())
	}
}

// linksDir is where Nix keeps files that several paths of the store share (optimise-store.cc).
const linksDir = "/nix/store/.links"

// forbidLinks prevents hard links in the store. Without Nix's sandbox, a builder can hand an open file of its output to the
// job's user, who can still write to it when the output belongs to root. If Nix then replaced a file of the same content by
// a link to it, as any user can ask for, the job's user could write to programs that root runs. A link to another file
// system fails.
func forbidLinks(c *containertypes.HostConfig) {
	c.Tmpfs[linksDir] = "ro,noexec,nosuid,nodev,mode=755"
}

// allowSandbox changes a container's settings to allow what Nix's sandbox needs, and nothing else.
func allowSandbox(c *containertypes.HostConfig) {
	// AppArmor's profile for containers refuses every mount.
	c.SecurityOpt = append(c.SecurityOpt, "seccomp="+sandboxProfile(), "apparmor=unconfined")
	c.MaskedPaths, c.ReadonlyPaths = []string{}, []string{}
}
