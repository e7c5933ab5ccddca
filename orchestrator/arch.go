package orchestrator

import (
	"fmt"
	"strings"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/orchestrator/engine"
)

// machines are Go's names of the machines that have others.
var machines = map[string]string{
	"x86_64": "amd64", "x86-64": "amd64", "x64": "amd64",
	"aarch64": "arm64",
	"i686":    "386", "i386": "386", "x86": "386",
	"armv7l": "arm", "armv7": "arm",
}

// systemFor returns Nix's name of the system that a job is for, by whatever name it has, or "" if
// that is the one of the engine's machine. Whether that runs programs of another, the program in the container
// finds out.
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

// notRun is why a job ends that is for another machine than the engine's.
func notRun(system, machine, advice string) error {
	return &engine.Failure{
		What:   fmt.Sprintf("The job is for %s, but this builder's engine runs %s.", system, nixSystem(machine)),
		Advice: advice + "Send the job to a builder for that machine, or leave out system (builder.arch in the Iglu stack's format).",
	}
}

// howToRun is what lets an engine's machine run programs of other machines.
const howToRun = "To have it run there under an emulator, register one with the kernel of the engine's machine " +
	"(binfmt_misc with the flag F): install the package qemu-user-static, or run 'docker run --privileged --rm tonistiigi/binfmt --install all'. "

// goArch returns Go's name of a Linux machine that goes by Nix's name of the system, as
// x86_64-linux, or Docker's of the platform, as linux/amd64, or the machine's alone. Other
// systems are no machine of that name.
func goArch(name string) string {
	name = strings.ToLower(name)
	name = strings.TrimPrefix(strings.TrimSuffix(name, "-linux"), "linux/")
	if machine, ok := machines[name]; ok {
		return machine
	}
	return name
}

// nixSystem returns Nix's name of the system that a Linux machine is.
func nixSystem(goArch string) string {
	if system := jobenv.Systems[goArch]; system != "" {
		return system
	}
	return goArch + "-linux"
}
