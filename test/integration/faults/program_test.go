//go:build integration

package faults

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"iglu.sh/builder/test/kit/fixture"
)

// TestOtherProgram puts another build into the volume with the builder's program. A job reports that and ends,
// because the other build may not understand the builder's parameters.
func TestOtherProgram(t *testing.T) {
	e, s := fixture.DockerEngine(), fixture.OwnServer(t)
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("nix --version")), 0)

	other := filepath.Join(t.TempDir(), "iglu-builder")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-X main.version=other", "-o", other, "iglu.sh/builder/cmd/iglu-builder")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	volumes := s.OnEngine("volume")
	program := slices.IndexFunc(volumes, func(name string) bool { return strings.Contains(name, "-program-") })
	if program < 0 {
		t.Fatalf("none of the volumes has the program: %q", volumes)
	}
	container := e.Docker(t, "create", "--volume", volumes[program]+":/iglu", fixture.Env.Image, "true")
	defer e.Docker(t, "rm", container)
	e.Docker(t, "cp", other, container+":/iglu/iglu-builder")

	got := fixture.Do(t, s, fixture.Command("nix --version"))
	fixture.WantExit(t, got, 70)
	fixture.WantLine(t, got, "iglu: the program in this container (build ")
	fixture.WantLine(t, got, "run 'iglu-builder cleanup' while no job is running")
}
