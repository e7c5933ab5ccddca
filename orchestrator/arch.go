package orchestrator

import (
	"fmt"
	"runtime"
	"strings"
)

// machines are Go's names of the machines that have others.
var machines = map[string]string{"x86_64": "amd64", "x86-64": "amd64", "x64": "amd64", "aarch64": "arm64"}

// checkArch refuses a job that is for another machine than the engine's, which is always
// the builder's own; see checkPlatform.
func checkArch(arch string) error {
	if arch == "" || goArch(arch) == runtime.GOARCH {
		return nil
	}
	return &failure{
		what:   fmt.Sprintf("The job is for %q, but this builder's engine runs %s.", arch, nixSystem(runtime.GOARCH)),
		advice: "Send the job to a builder for that machine, or leave out builder.arch.",
	}
}

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
	switch goArch {
	case "amd64":
		return "x86_64-linux"
	case "arm64":
		return "aarch64-linux"
	}
	return goArch + "-linux"
}
