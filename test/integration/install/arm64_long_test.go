//go:build integration && long

package install

import (
	"crypto/rand"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"iglu.sh/builder/test/kit/fixture"
)

// TestARM64 runs the program for arm64 in an emulator: its version, its server with an engine that reports
// arm64, and a job if the kernel runs such programs in containers.
func TestARM64(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Fatal("this test needs an amd64 machine: arm64 is no foreign platform here")
	}
	const version = "1.2.3-test"
	program := filepath.Join(t.TempDir(), "iglu-builder")
	s := &stack{t: t, name: "arm64-test-" + strings.ToLower(rand.Text()[:8])}
	s.must(s.run("env", "CGO_ENABLED=0", "GOARCH=arm64", "go", "build", "-trimpath", "-ldflags=-s -w -X main.version="+version,
		"-o", program, "./cmd/iglu-builder"))
	emulated := []string{"qemu-aarch64-static", program}

	if got := s.must(s.run(emulated[0], program, "version")); !strings.HasPrefix(got, "iglu-builder "+version+" ") {
		t.Errorf("its version is %q, want %s", got, version)
	}
	engine := fixture.DockerEngine().Saying(t, "/version", `"amd64"`, `"arm64"`)
	s.address = fixture.StartCommand(t, emulated, s.name, t.TempDir(), engine, "--job-image", s.findJobImage()).Address
	s.must(s.run(emulated[0], program, "healthcheck", "--url", s.address))
	if fixture.EmulateARM64(t) {
		s.checkJob()
		s.checkJobLeftNothing()
		s.checkProgram(program)
	}
}

// checkProgram checks that jobs have run this program and not a build for another platform.
func (s *stack) checkProgram(program string) {
	s.t.Helper()
	for _, thing := range s.labelled(instanceLabel) {
		volume, isVolume := strings.CutPrefix(thing, "volume ")
		if !isVolume || !strings.Contains(volume, "-program-") {
			continue
		}
		container := s.mustDocker("create", "--volume", volume+":/iglu", s.findJobImage(), "true")
		copied := filepath.Join(s.t.TempDir(), "copied")
		s.mustDocker("cp", container+":/iglu/iglu-builder", copied)
		s.mustDocker("rm", container)
		s.must(s.run("cmp", program, copied))
		return
	}
	s.t.Error("no volume contains the server's program")
}
