package docker

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/profiles/seccomp"

	"iglu.sh/builder/test/kit/fakeengine"
)

// TestSandbox uses every setting of Nix's own sandbox on engines where the sandbox works, where it does not work, and
// where it is not safe.
func TestSandbox(t *testing.T) {
	t.Parallel()
	const (
		used    = "level=INFO msg=\"builds run in Nix's own sandbox\"\n"
		notUsed = "level=INFO msg=\"the container is the sandbox of builds: Nix's own is not used on this engine\"\n"
		podman  = "Nix's own sandbox (IGLU_NIX_SANDBOX=on) does not work on Podman, which takes the seccomp profile that it needs only as a file on its own machine. " +
			"Set IGLU_NIX_SANDBOX to auto: then the container is the sandbox."
		noNamespaces = "Nix's own sandbox (IGLU_NIX_SANDBOX=on) would open a way out of the container on this container engine, which has no user namespaces. " +
			"Run the engine rootless or with userns-remap, or set IGLU_NIX_SANDBOX to auto; " +
			"IGLU_NIX_SANDBOX_UNSAFE=yes is for builders whose every job may be trusted with the machine."
	)
	userns, rootless, seccomp := []string{"name=seccomp,profile=default", "name=userns"}, []string{"name=rootless"}, []string{"name=seccomp,profile=default"}
	for _, test := range []struct {
		sandbox   Sandbox
		unsafe    bool
		recording string
		security  []string
		want      bool
		refused   string
		log       string
	}{
		{SandboxAuto, false, fakeengine.Docker, seccomp, false, "", notUsed},
		{SandboxAuto, true, fakeengine.Docker, seccomp, false, "", notUsed},
		{SandboxAuto, false, fakeengine.Docker, userns, true, "", used},
		{SandboxAuto, false, fakeengine.Docker, rootless, true, "", used},
		{SandboxAuto, false, fakeengine.Podman, rootless, false, "", notUsed},
		{SandboxOff, false, fakeengine.Docker, userns, false, "", notUsed},
		{SandboxOff, true, fakeengine.Docker, userns, false, "", notUsed},
		{SandboxOff, false, fakeengine.Podman, rootless, false, "", notUsed},
		{SandboxOn, false, fakeengine.Docker, userns, true, "", used},
		{SandboxOn, false, fakeengine.Docker, rootless, true, "", used},
		{SandboxOn, false, fakeengine.Docker, seccomp, false, noNamespaces, ""},
		{SandboxOn, true, fakeengine.Docker, seccomp, true, "", used},
		{SandboxOn, false, fakeengine.Podman, rootless, false, podman, ""},
		{SandboxOn, true, fakeengine.Podman, rootless, false, podman, ""},
	} {
		bubble(t, test.recording, func(o *Options) { o.Sandbox, o.SandboxUnsafe = test.sandbox, test.unsafe }, func(t *testing.T, f *fixture) {
			f.fake.SecurityOptions = test.security
			got, err := f.Info(t.Context())
			wantTold(t, err, test.refused)
			wantEqual(t, "sandboxed", got.Sandboxed, test.want)
			_, err = f.Create(t.Context(), spec("one"))
			wantTold(t, err, test.refused)
			wantEqual(t, "log", f.log.String(), test.log)
		})
	}
}

// TestUserNamespacesEnd restarts an engine without user namespaces, so quickly that no ping notices it. No container is made
// that would be open without them.
func TestUserNamespacesEnd(t *testing.T) {
	t.Parallel()
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
		f.fake.SecurityOptions = []string{"name=seccomp,profile=default", "name=userns"}
		f.create(t, "one")
		f.fake.SecurityOptions = []string{"name=seccomp,profile=default"}
		_, err := f.Create(t.Context(), spec("two"))
		wantTold(t, err, "The container engine has no user namespaces any more. Send the job again.")
		got, err := f.Info(t.Context())
		wantTold(t, err, "")
		wantEqual(t, "sandboxed", got.Sandboxed, false)
		f.create(t, "three")
		wantEqual(t, "log", f.log.String(), "level=INFO msg=\"builds run in Nix's own sandbox\"\n"+
			"level=INFO msg=\"the container is the sandbox of builds: Nix's own is not used on this engine\"\n")
	})
}

// TestSeccomp checks the default profile, and the one that also allows the calls of Nix's sandbox.
func TestSeccomp(t *testing.T) {
	t.Parallel()
	parse := func(text string) (profile seccomp.Seccomp) {
		if err := json.Unmarshal([]byte(text), &profile); err != nil {
			t.Fatal(err)
		}
		return profile
	}
	text, err := json.Marshal(seccomp.DefaultProfile())
	if err != nil {
		t.Fatal(err)
	}
	want := parse(string(text))
	if diff := cmp.Diff(want, parse(defaultProfile())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	beside := []byte(`{"names":["chroot","clone","mount","pivot_root","setdomainname","sethostname","umount2","unshare"],"action":"SCMP_ACT_ALLOW"}`)
	var calls seccomp.Syscall
	if err := json.Unmarshal(beside, &calls); err != nil {
		t.Fatal(err)
	}
	want.Syscalls = append(slices.Clone(want.Syscalls), &calls)
	if diff := cmp.Diff(want, parse(sandboxProfile())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
