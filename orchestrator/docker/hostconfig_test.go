package docker

import (
	"strings"
	"testing"

	containertypes "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/test/kit/fakeengine"
)

// TestHostConfig has all that a container is allowed, and what it is connected to.
func TestHostConfig(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, recording string
		security        []string // of the engine; nil: as recorded
		change          func(*engine.Spec)
		want            func(*containertypes.HostConfig)
	}{
		{"docker", fakeengine.Docker, nil, nil,
			func(c *containertypes.HostConfig) { c.SecurityOpt = append(c.SecurityOpt, "seccomp="+defaultProfile()) }},
		{"docker of today", fakeengine.Docker, []string{"name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"}, nil,
			func(c *containertypes.HostConfig) { c.SecurityOpt = append(c.SecurityOpt, "seccomp="+defaultProfile()) }},
		{"docker with a profile of somebody's choice", fakeengine.Docker, []string{"name=seccomp,profile=/etc/seccomp.json"}, nil, nil},
		{"docker without seccomp", fakeengine.Docker, []string{}, nil, nil},
		{"docker with user namespaces", fakeengine.Docker, []string{"name=seccomp,profile=default", "name=userns"}, nil, allowed},
		{"docker without root", fakeengine.Docker, []string{"name=rootless"}, nil, allowed},
		{"podman", fakeengine.Podman, nil, nil, nil},
		{"podman without root", fakeengine.Podman, []string{"name=seccomp,profile=default", "name=rootless"}, nil, nil},
		{"offline", fakeengine.Podman, nil, func(s *engine.Spec) { s.Offline = true },
			func(c *containertypes.HostConfig) { c.NetworkMode = "none" }},
		{"store", fakeengine.Podman, nil, func(s *engine.Spec) {
			s.Store = engine.Volume{Name: "iglu-store-1", Labels: map[string]string{engine.LabelStore: "repository"}}
		}, func(c *containertypes.HostConfig) {
			c.Mounts = append(c.Mounts, mount.Mount{Type: "volume", Source: "iglu-store-1", Target: "/nix", VolumeOptions: &mount.VolumeOptions{
				Labels: map[string]string{engine.LabelInstance: "test", engine.LabelStore: "repository"},
			}})
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, test.recording, nil, func(t *testing.T, f *fixture) {
				f.fake.SecurityOptions = test.security
				s := spec("one")
				s.CPUs, s.PIDs, s.Memory = 1.5, 4096, 3<<30
				if test.change != nil {
					test.change(&s)
				}
				if _, err := f.Create(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				want := confined(f.jobsNetwork(t), f.program.volume)
				if test.want != nil {
					test.want(want)
				}
				got := f.fake.Containers()[0].HostConfig
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestLimitsNotEnforced has a Docker whose machine lacks control groups, as that of a rootless engine. It refuses
// containers with a limit of CPUs, so they get none. The log says which settings have no effect.
func TestLimitsNotEnforced(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		limits []string
		log    string
	}{
		{[]string{"CpuCfsQuota"}, "settings=[IGLU_JOB_CPUS]"},
		{[]string{"MemoryLimit", "CpuCfsQuota", "PidsLimit"}, `settings="[IGLU_JOB_MEMORY IGLU_JOB_CPUS IGLU_JOB_PIDS]"`},
	} {
		bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
			f.fake.NotEnforced = test.limits
			s := spec("one")
			s.CPUs, s.PIDs, s.Memory = 1.5, 4096, 3<<30
			if _, err := f.Create(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			want := confined(f.jobsNetwork(t), f.program.volume)
			want.SecurityOpt = append(want.SecurityOpt, "seccomp="+defaultProfile())
			want.NanoCPUs = 0
			if diff := cmp.Diff(want, f.fake.Containers()[0].HostConfig); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			const line = `level=WARN msg="the container engine cannot enforce these settings: its machine lacks control groups for them" `
			if log := f.log.String(); !strings.Contains(log, line+test.log+"\n") {
				t.Errorf("the log is\n%s", log)
			}
		})
	}
	bubble(t, fakeengine.Podman, nil, func(t *testing.T, f *fixture) { // which says so with control groups, too
		f.fake.NotEnforced = []string{"MemoryLimit", "PidsLimit"}
		f.create(t, "one")
		if log := f.log.String(); strings.Contains(log, "cannot enforce") {
			t.Errorf("Podman's log is\n%s", log)
		}
	})
}

// confined is what a container with half of 3 GiB in /tmp, 1.5 CPUs and 4096 processes is allowed.
func confined(network, program string) *containertypes.HostConfig {
	no, pids := false, int64(4096)
	return &containertypes.HostConfig{
		LogConfig:   containertypes.LogConfig{Type: "none"},
		NetworkMode: containertypes.NetworkMode(network),
		Mounts:      []mount.Mount{{Type: "volume", Source: program, Target: jobenv.Mount, ReadOnly: true}},
		Tmpfs:       map[string]string{"/tmp": "rw,exec,nosuid,nodev,mode=1777,size=1610612736", "/nix/store/.links": "ro,noexec,nosuid,nodev,mode=755"},
		CapDrop:     []string{"ALL"},
		CapAdd:      []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"},
		SecurityOpt: []string{"no-new-privileges"},
		Init:        &no,
		OomScoreAdj: 500,
		Resources: containertypes.Resources{
			Memory: 3 << 30, MemorySwap: 3 << 30, NanoCPUs: 1_500_000_000, CPUShares: 512, PidsLimit: &pids,
		},
	}
}

// allowed are the additional settings that Nix's own sandbox needs.
func allowed(c *containertypes.HostConfig) {
	c.SecurityOpt = append(c.SecurityOpt, "seccomp="+sandboxProfile(), "apparmor=unconfined")
	c.MaskedPaths, c.ReadonlyPaths = []string{}, []string{}
	delete(c.Tmpfs, "/nix/store/.links")
}
