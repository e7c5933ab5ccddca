package docker

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"iglu.sh/builder/internal/lazyregexp"
	"iglu.sh/builder/test/kit/fakeengine"
)

// TestContainerIn has the lists of mounts of programs in and out of containers, as they were seen.
func TestContainerIn(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for name, test := range map[string]struct{ mounts, want string }{
		"docker": {"1057 1044 8:1 /var/lib/docker/containers/" + id + "/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/sda1 rw\n" +
			"1058 1044 8:1 /var/lib/docker/containers/" + id + "/hostname /etc/hostname rw,relatime - ext4 /dev/sda1 rw\n", id},
		"podman": {"801 790 0:25 /containers/storage/overlay-containers/" + id + "/userdata/hostname /etc/hostname rw,nosuid,nodev,relatime - tmpfs tmpfs rw\n", id},
		"a container's folder, mounted elsewhere": {"1058 1044 8:1 /var/lib/docker/containers/" + id + "/hostname /mnt/hostname rw - ext4 /dev/sda1 rw\n", ""},
		"a machine": {"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n23 22 0:21 / /proc rw,nosuid - proc proc rw\n", ""},
		"nothing":   {"", ""},
	} {
		if got := containerIn(test.mounts); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// TestStopTimeout runs in no container, and in one of the name proc, which every machine's list of
// mounts has. The engine knows that container, does not know it, or does not answer.
func TestStopTimeout(t *testing.T) {
	form := selfForm
	t.Cleanup(func() { selfForm = form })
	for _, test := range []struct {
		name, form string
		do         func(e *fakeengine.Engine)
		want       time.Duration
		took       time.Duration
	}{
		{"no container", "never (matched)", inspects(`{"Config":{"StopTimeout":25}}`), 0, 0},
		{"its own", " /(proc) ", inspects(`{"Config":{"StopTimeout":25}}`), 25 * time.Second, 0},
		{"never killed", " /(proc) ", inspects(`{"Config":{"StopTimeout":-1}}`), 0, 0}, // docker run --stop-timeout -1
		{"the engine's", " /(proc) ", inspects(`{"Config":{}}`), 10 * time.Second, 0},
		{"nothing known", " /(proc) ", inspects(`{}`), 10 * time.Second, 0},
		{"another engine's container", " /(proc) ", func(*fakeengine.Engine) {}, 10 * time.Second, 0},
		{"no engine", " /(proc) ", func(e *fakeengine.Engine) { e.Refuse(syscall.ECONNREFUSED) }, 10 * time.Second, 0},
		{"hung engine", " /(proc) ", (*fakeengine.Engine).Hang, 10 * time.Second, time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			selfForm = lazyregexp.New(test.form)
			bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
				test.do(f.fake)
				begun := time.Now()
				wantEqual(t, "time-out", f.StopTimeout(), test.want)
				wantTook(t, begun, test.took)
				f.fake.Return()
			})
		})
	}
}

// inspects has the engine know the container.
func inspects(answer string) func(e *fakeengine.Engine) {
	return func(e *fakeengine.Engine) { e.Answer(callAt("GET /containers/proc/json", 1), 200, answer) }
}
