package orchestrator

import (
	"io"
	"runtime"
	"strings"
	"testing"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/test/kit/memengine"
)

func TestGoArch(t *testing.T) {
	for name, want := range map[string]string{
		"x86_64-linux": "amd64", "X86_64-Linux": "amd64", "x86_64": "amd64", "x86-64": "amd64", "x64": "amd64", "amd64": "amd64",
		"linux/amd64": "amd64", "aarch64-linux": "arm64", "aarch64": "arm64", "arm64": "arm64", "linux/arm64": "arm64",
		"riscv64-linux": "riscv64", "i686-linux": "386",
		"x86_64-darwin": "x86_64-darwin", "darwin/arm64": "darwin/arm64", "armv7l-linux": "arm", "linux": "linux",
	} {
		if got := goArch(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for arch, want := range map[string]string{"amd64": "x86_64-linux", "arm64": "aarch64-linux", "386": "i686-linux", "sparc64": "sparc64-linux"} {
		if got := nixSystem(arch); got != want {
			t.Errorf("%s is %q to Nix, want %q", arch, got, want)
		}
	}
	if got := goArch(nixSystem(runtime.GOARCH)); got != runtime.GOARCH {
		t.Errorf("this machine, %s, comes out as %s", runtime.GOARCH, got)
	}
}

// TestArch sends jobs for this machine, by any name of its architecture, and jobs for other machines. The latter end
// without a call of the engine.
func TestArch(t *testing.T) {
	for arch, own := range map[string]bool{
		"": true, runtime.GOARCH: true, nixSystem(runtime.GOARCH): true, "linux/" + runtime.GOARCH: true,
		"sparc-linux": false, "powerpc64le-linux": false, "x86_64-darwin": false, "aarch64-darwin": false, " ": false,
	} {
		ran := false
		b, _, _ := builder(t, func(p *memengine.Process) int {
			ran = true
			return ends(p, jobwire.End{})
		})
		request := secretRequest()
		request.Arch = arch
		got := b.build(t.Context(), request, io.Discard).Response
		if ran != own {
			t.Errorf("%q: it ran: %v", arch, ran)
		}
		if !own && (!strings.Contains(got.Error, "this builder's engine runs "+nixSystem(runtime.GOARCH)) || got.BuildExitCode != nil) {
			t.Errorf("%q: got %s", arch, got.Encode())
		}
	}
	// What other machines there are that this one runs, the container finds out.
	b, _, _ := builder(t, func(p *memengine.Process) int {
		jobwire.NewWriter(p.Stdout, p.Getenv(jobenv.EventsToken)).Send(jobwire.Record{NotRun: p.Getenv(jobenv.System)})
		return 78
	})
	request := secretRequest()
	request.Arch = "riscv64"
	got := b.build(t.Context(), request, io.Discard).Response
	if !strings.HasPrefix(got.Msg, "The job is for riscv64-linux, but this builder's engine runs "+nixSystem(runtime.GOARCH)+". To have it run there") ||
		got.BuildExitCode == nil || *got.BuildExitCode != 78 {
		t.Errorf("got %s", got.Encode())
	}
	request = secretRequest()
	request.Arch = "secret-api-linux"
	b, _, _ = builder(t, nil)
	if got := b.build(t.Context(), request, io.Discard).Response; strings.Contains(got.Error, "secret-") {
		t.Errorf("got %s", got.Encode())
	}
}
