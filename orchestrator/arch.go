package orchestrator

import (
	"fmt"
	"strings"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/orchestrator/engine"
)

// machines are Go's names of architectures, by their other names.
var machines = map[string]string{
	"x86_64": "amd64", "x86-64": "amd64", "x64": "amd64",
	"aarch64": "arm64",
	"i686":    "386", "i386": "386", "x86": "386",
	"armv7l": "arm", "armv7": "arm",
}

// systemFor returns Nix's name of the system that a job asks for, or "" if the engine's machine is of that
// system. arch may be any name that goArch knows. It fails if Nix has no such system. The program in the
// container finds out whether the machine can run programs of another system.
func systemFor(arch, machine string) (string, error) {
	wanted := goArch(arch)
	switch {
	case arch == "" || wanted == machine:
		return "", nil
	case jobenv.Systems[wanted] == "":
		return "", notRun(fmt.Sprintf("%q", arch), machine, "")
	default:
		return jobenv.Systems[wanted], nil
	}
}

// notRun is the failure of a job for a system that the engine's machine cannot run.
func notRun(system, machine, advice string) error {
	return &engine.Failure{
		What:   fmt.Sprintf("The job is for %s, but this builder's engine runs %s.", system, nixSystem(machine)),
		Advice: advice + "Send the job to a builder for that machine, or leave out system (builder.arch in the Iglu stack's format).",
	}
}

// howToRun is advice on how to let an engine's machine run programs of other systems.
const howToRun = "To have it run there under an emulator, register one with the kernel of the engine's machine " +
	"(binfmt_misc with the flag F): install the package qemu-user-static, or run 'docker run --privileged --rm tonistiigi/binfmt --install all'. "

// goArch returns Go's name of a Linux architecture. name is a Nix system such as x86_64-linux, a Docker
// platform such as linux/amd64, or the architecture alone, such as aarch64. Any other name is returned in
// lower case.
func goArch(name string) string {
	name = strings.ToLower(name)
	name = strings.TrimPrefix(strings.TrimSuffix(name, "-linux"), "linux/")
	if machine, ok := machines[name]; ok {
		return machine
	}
	return name
}

// nixSystem returns Nix's name of the system of a Linux architecture.
func nixSystem(goArch string) string {
	if system := jobenv.Systems[goArch]; system != "" {
		return system
	}
	return goArch + "-linux"
}
