package orchestrator

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"iglu.sh/builder/images"
	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/orchestrator/docker"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/test/kit/fakeengine"
)

// bubble runs a test in which no time passes that is waited for, on an engine of Docker's words.
func bubble(t *testing.T, change func(*options), test func(t *testing.T, f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newFixture(t, fakeengine.Docker, change)) })
}

func (e finished) want(t *testing.T, want string) {
	t.Helper()
	if got := plain(e.String()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// outOfTime are the options of a builder that ends jobs.
func outOfTime(build, silence time.Duration) func(*options) {
	return func(o *options) { o.Deadlines = Deadlines{Build: build, Silence: silence} }
}

// TestEnds runs jobs that end in every way except by a failed call of the engine.
func TestEnds(t *testing.T) {
	const killed = "Something went wrong while building. Builder exited with error code %d " +
		"The job's container was ended from outside, not by the builder. The administrator of the container engine may know why."
	failed := func(code int) string {
		return fmt.Sprintf("exited %d: Something went wrong while building. Builder exited with error code %d", code, code)
	}
	tests := []struct {
		name, command string
		change        func(*options)
		during        func(f *fixture, j *job) // when it has printed "lingering"
		want          string
	}{
		{"success", "count 0", nil, nil, "exited 0: Build was successfull"},
		{"exit code", "count 42", nil, nil, failed(42)},
		{"killed by itself", "count 137", nil, nil, failed(137)},
		{"terminated by itself", "count 143", nil, nil, failed(143)},
		{"killed from outside", "linger", nil, func(f *fixture, _ *job) { f.engine.Kill() }, "killed 137: " + fmt.Sprintf(killed, 137)},
		{"stopped from outside", "linger", nil, func(f *fixture, _ *job) { f.engine.Stop() }, "killed 143: " + fmt.Sprintf(killed, 143)},
		{"stopped from outside, and handles it", "handler", nil, func(f *fixture, _ *job) { f.engine.Stop() }, failed(7)},
		{"out of memory", "memory", nil, nil,
			"out-of-memory 137: Something went wrong while building. Builder exited with error code 137 The job ran out of memory. It may use 17.66GiB (IGLU_JOB_MEMORY)."},
		{"child out of memory", "memory 3", nil, nil,
			"out-of-memory 3: Something went wrong while building. Builder exited with error code 3 The job ran out of memory. It may use 17.66GiB (IGLU_JOB_MEMORY)."},
		{"too long", "linger", outOfTime(time.Minute, 0), nil,
			"timed-out after 1m0s: The job was cancelled. It ran longer than 1m0s, the most that a job may (IGLU_BUILD_TIMEOUT)."},
		{"silent", "linger", outOfTime(time.Hour, 20*time.Second), nil,
			"silent after 20s: The job was cancelled. It printed nothing for 20s, the longest that a job may be silent (IGLU_SILENCE_TIMEOUT)."},
		{"too long and stubborn", "stubborn", outOfTime(time.Minute, 0), nil,
			"timed-out after 1m10s: The job was cancelled. It ran longer than 1m0s, the most that a job may (IGLU_BUILD_TIMEOUT)."},
		{"goodbye", "stubborn", nil, func(_ *fixture, j *job) { j.cancel(jobend.Cancelled) },
			"cancelled after 3s: The job was cancelled. Its client closed the connection."},
		{"gone", "stubborn", nil, func(_ *fixture, j *job) { j.cancel(jobend.ClientGone) },
			"client-gone after 3s: The job was cancelled. The connection to its client was lost."},
		{"shutdown", "stubborn", nil, func(_ *fixture, j *job) { j.cancel(jobend.Shutdown) },
			"shutdown after 3s: The job was cancelled. The builder is shutting down. Send the job again when it is back."},
		{"page", "linger", nil, func(f *fixture, _ *job) { f.b.Cancel(f.records.latest()) },
			"cancelled: The job was cancelled. Somebody cancelled it, on the page or with 'iglu-builder cancel'."},
		{"other reason", "linger", nil, func(_ *fixture, j *job) { j.cancel(errors.New("some")) },
			"failed: The job was cancelled. The builder's log says why."},
		{"unpushed", "push", nil, nil, "unpushed 75: Something went wrong while building. Builder exited with error code 75 " +
			"The build itself succeeded, but 1 of 2 paths was not pushed. The job's log says more. Send the job again to push the rest."},
		{"exit code of unpushed", "count 75", nil, nil, failed(75)},
		{"exit code of a lost lifeline", "count 74", nil, nil, failed(74)},
		{"hung engine", "linger", nil, func(f *fixture, _ *job) { f.engine.Hang() },
			"engine-gone after 1m3s: The container engine does not answer any more. Send the job again when it does."},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, test.change, func(t *testing.T, f *fixture) {
				j := f.send(requestOf(test.command))
				if test.during != nil {
					j.waitFor(t, "lingering")
					test.during(f, j)
				}
				end := j.finish()
				f.b.background.Wait()
				end.want(t, test.want)
				if strings.HasPrefix(test.command, "linger") && test.during == nil && !strings.Contains(end.lines, "told to end") {
					t.Errorf("its last words are lost: %q", end.lines)
				}
				if test.name == "hung engine" {
					f.engine.Return()
				} else if left := f.left(); left != "" {
					t.Errorf("left: %s", left)
				}
				f.wantNext()
			})
		})
	}
}

// TestNotSilent has a job print just in time, which is before the deadline of its silence.
func TestNotSilent(t *testing.T) {
	bubble(t, outOfTime(time.Hour, 10*time.Second), func(t *testing.T, f *fixture) {
		f.engine.Run = func(p *fakeengine.Process) int {
			for range 20 {
				time.Sleep(9 * time.Second)
				fmt.Fprintln(p.Stderr, "still here")
			}
			return count(p, 0)
		}
		f.do("count 0").want(t, "exited 0 after 3m0s: Build was successfull")
	})
}

// TestOutputThatDoesNotEnd runs a container whose output the engine keeps open after the container's end.
func TestOutputThatDoesNotEnd(t *testing.T) {
	for code, want := range map[int]string{
		3: "exited 3 after 10s: Something went wrong while building. Builder exited with error code 3",
		0: "exited 0 after 10s: Build was successfull",
	} {
		bubble(t, nil, func(t *testing.T, f *fixture) {
			f.engine.KeepOutput = true
			f.engine.Run = func(p *fakeengine.Process) int { return code } // without word of its success
			end := f.do("count")
			end.want(t, want)
			if said := strings.Contains(end.lines, "iglu: the end of the log may be missing: "); !said {
				t.Errorf("exit code %d: %q", code, end.lines)
			}
			if left := f.left(); left != "" {
				t.Errorf("left: %s", left)
			}
		})
	}
}

// TestNoEngine has a builder without an engine, or without the right to talk to it.
func TestNoEngine(t *testing.T) {
	for why, want := range map[syscall.Errno]string{
		syscall.ECONNREFUSED: "engine-gone: The container engine does not answer. Start it, or set DOCKER_HOST to where it listens.",
		syscall.ENOENT:       "engine-gone: The container engine does not answer. Start it, or set DOCKER_HOST to where it listens.",
		syscall.EACCES: "engine-gone: The builder has no permission to use the container engine. Run it as a user of the group that the engine's socket belongs to " +
			"(with docker-compose, set DOCKER_GID to that group's number).",
	} {
		bubble(t, nil, func(t *testing.T, f *fixture) {
			f.engine.Refuse(why)
			f.do("count 3").want(t, want)
			if f.b.Healthy(t.Context()) == nil || f.b.local.leftovers.sweep(t.Context(), f.b.local.engine, nil) == nil || f.b.Check(t.Context()) != nil {
				t.Error("it is healthy, or clean, or sure that the engine cannot do")
			}
			if _, err := f.b.local.stores.List(t.Context()); err == nil {
				t.Error("it knows of the stores")
			}
			f.engine.Return()
			if err := f.b.Healthy(t.Context()); err != nil {
				t.Error(err)
			}
			f.wantNext()
		})
	}
}

// TestImage uses an image that is pulled, and one that is missing.
func TestImage(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fixture) {
		f.engine.Missing = true
		end := f.do("count 3")
		end.wantExit(t, 3)
		for _, line := range []string{"iglu: pulling registry.invalid/iglu/recorded:1", "Status: Downloaded newer image for registry.invalid/iglu/recorded:1",
			"iglu: job image registry.invalid/iglu/recorded:1, sha256:"} {
			if !strings.Contains(end.lines, line) {
				t.Errorf("without the line %q: %s", line, end.lines)
			}
		}
		if end = f.do("count 3"); strings.Contains(end.lines, "pulling") {
			t.Errorf("the second job pulls again: %s", end.lines)
		}
	})
	for _, test := range []struct{ image, recording, want string }{
		{"other.invalid/nothing:2", fakeengine.Docker, "manifest for other.invalid/nothing:2 not found"},
		{"other.invalid/nothing:2", fakeengine.Podman, "initializing source docker://other.invalid/nothing:"},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFixture(t, test.recording, func(o *options) { o.engine.Image = test.image })
			end := f.do("count 3")
			if end.event.End != "no-image" || !strings.Contains(end.response.Error, "The job image other.invalid/nothing:2 is not on the engine and cannot be pulled: ") ||
				!strings.Contains(end.response.Error, test.want) {
				t.Errorf("got %s", end)
			}
		})
	}
	bubble(t, func(o *options) { o.engine.Pull = images.PullNever }, func(t *testing.T, f *fixture) {
		f.engine.Missing = true
		f.do("count 3").want(t, "no-image: The job image registry.invalid/iglu/recorded:1 is not on the engine and cannot be pulled: it is never pulled (IGLU_PULL). "+
			"Check the image's name (IGLU_JOB_IMAGE) and that the engine reaches its registry.")
	})
}

// TestOtherPlatform has an engine of another architecture.
func TestOtherPlatform(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fixture) {
		f.engine.Arch = "riscv64"
		f.do("count 3").want(t, fmt.Sprintf("failed: The container engine runs linux/riscv64, but this builder is made for linux/%s. "+
			"Use an iglu-builder made for the engine's platform.", runtime.GOARCH))
		f.engine.Arch = runtime.GOARCH // it is asked again
		f.wantNext()
	})
}

// TestAPIVersion uses engines with older versions of the API, and one that is too old.
func TestAPIVersion(t *testing.T) {
	for version, want := range map[string]string{"1.41": "/v1.41/", "1.44": "/v1.44/", "9.99": "/v1.51/"} {
		bubble(t, nil, func(t *testing.T, f *fixture) {
			f.engine.APIVersion = version
			f.do("count 3").wantExit(t, 3)
			for _, path := range f.engine.Paths() {
				if !strings.HasPrefix(path, want) && path != "/_ping" {
					t.Errorf("with version %s: %s", version, path)
				}
			}
		})
	}
}

// TestNetwork uses engines on which the jobs' network is missing, exists twice, and is hard to create.
func TestNetwork(t *testing.T) {
	own := func(o *options) { o.engine.Network = "own" }
	bubble(t, own, func(t *testing.T, f *fixture) {
		const want = "failed: The network own is not on the container engine. " +
			"Make it there, or set IGLU_JOB_NETWORK to one that is, or to nothing for one of the builder's own."
		f.do("count 3").want(t, want)
		f.engine.MakeNetwork("own", nil)
		f.do("count 3").wantExit(t, 3)
	})
	bubble(t, func(o *options) { o.engine.Network = "none" }, func(t *testing.T, f *fixture) {
		f.do("count 3").wantExit(t, 3)
		if left := f.left(); left != "no network jobs" {
			t.Errorf("left: %s", left)
		}
	})
	bubble(t, nil, func(t *testing.T, f *fixture) { // builders of an older version have made it at once
		for range 3 {
			f.engine.MakeNetwork("iglu-builder-test-jobs", map[string]string{engine.LabelInstance: "test"})
			time.Sleep(time.Second)
		}
		f.do("count 3").wantExit(t, 3)
		if left := f.left(); left != "" || strings.Count(strings.Join(f.engine.Left(), "\n"), "network iglu-builder-test-jobs") != 1 {
			t.Errorf("left: %v", f.engine.Left())
		}
	})
	for _, test := range []struct {
		fails int
		want  string
	}{
		{4, "exited 3: Something went wrong while building. Builder exited with error code 3"},
		{5, "failed: The container engine failed to provide the jobs' network: Error response from daemon: route ip+net: no such network interface. " +
			"If a setting of the builder is not the cause, its log and the engine's say more."},
	} {
		bubble(t, nil, func(t *testing.T, f *fixture) {
			for n := range test.fails {
				f.engine.Answer(callAt("create network", "POST /networks/create", n+1), 500, `{"message":"route ip+net: no such network interface"}`)
			}
			f.do("count 3").want(t, test.want)
		})
	}
}

// TestConfinement looks at the settings of a job's container.
func TestConfinement(t *testing.T) {
	const memTotal, cpus = 25276063744, 2 // as recorded
	tests := []struct {
		name      string
		recording string
		security  []string
		change    func(*options)
		sandboxed bool
		refused   string // by Check and in the job's error
	}{
		{"auto", fakeengine.Docker, nil, nil, false, ""},
		{"auto, user namespaces", fakeengine.Docker, []string{"name=seccomp,profile=default", "name=userns"}, nil, true, ""},
		{"auto, rootless", fakeengine.Docker, []string{"name=rootless"}, nil, true, ""},
		{"off, rootless", fakeengine.Docker, []string{"name=rootless"}, func(o *options) { o.engine.Sandbox = docker.SandboxOff }, false, ""},
		{"on", fakeengine.Docker, nil, func(o *options) { o.engine.Sandbox = docker.SandboxOn }, false,
			"would open a way out of the container on this container engine, which has no user namespaces"},
		{"on and unsafe", fakeengine.Docker, nil, func(o *options) { o.engine.Sandbox, o.engine.SandboxUnsafe = docker.SandboxOn, true }, true, ""},
		{"auto, Podman", fakeengine.Podman, []string{"name=rootless"}, nil, false, ""},
		{"on, Podman", fakeengine.Podman, []string{"name=rootless"}, func(o *options) { o.engine.Sandbox = docker.SandboxOn }, false, "does not work on Podman"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t, test.recording, test.change)
				f.engine.SecurityOptions = test.security
				if err := f.b.Check(t.Context()); (err != nil) != (test.refused != "") {
					t.Errorf("checked: %v", err)
				}
				if test.refused != "" {
					if end := f.do("count 3"); end.event.End != "failed" || !strings.Contains(end.response.Error, test.refused) {
						t.Errorf("got %s", end)
					}
					return
				}
				j := f.send(requestOf("linger"))
				j.waitFor(t, "lingering")
				c := f.engine.Containers()[0]
				f.b.Cancel(f.records.latest())
				j.finish()
				host := c.HostConfig
				text, err := json.Marshal(host)
				if err != nil {
					t.Fatal(err)
				}
				widened := strings.Contains(string(text), "seccomp=") && host.MaskedPaths != nil && len(host.MaskedPaths) == 0
				config := strings.Join(c.Env, "\n")
				if widened != test.sandboxed || strings.Contains(config, nixSandboxed) != test.sandboxed || strings.Contains(config, nixUnsandboxed) == test.sandboxed {
					t.Errorf("in the sandbox: want %t, got %s, %s", test.sandboxed, text, config)
				}
				if host.Privileged || !slices.Contains(host.SecurityOpt, "no-new-privileges") || fmt.Sprint(host.CapDrop) != "[ALL]" || len(host.CapAdd) != 6 ||
					host.LogConfig.Type != "none" || host.Memory != host.MemorySwap || *host.PidsLimit != 4096 {
					t.Errorf("settings: %s", text)
				}
				if test.recording == fakeengine.Docker && (host.Memory != memTotal*3/4 || host.NanoCPUs != cpus*1e9) {
					t.Errorf("limits: %d bytes, %d CPUs", host.Memory, host.NanoCPUs)
				}
			})
		})
	}
}

// TestFixedLimits sets fixed limits. One is more than the machine has.
func TestFixedLimits(t *testing.T) {
	limits := func(o *options) {
		o.Limits = Limits{Memory: Amount{Fixed: 1 << 30}, CPUs: Amount{Fixed: 64}, PIDs: 100}
	}
	bubble(t, limits, func(t *testing.T, f *fixture) {
		j := f.send(requestOf("linger"))
		j.waitFor(t, "lingering")
		host := f.engine.Containers()[0].HostConfig
		if host.Memory != 1<<30 || host.NanoCPUs != 2e9 || *host.PidsLimit != 100 || host.Tmpfs["/tmp"] != "rw,exec,nosuid,nodev,mode=1777,size=536870912" {
			t.Errorf("limits: %+v, /tmp: %v", host.Resources, host.Tmpfs)
		}
		j.cancel(jobend.Cancelled)
		j.finish()
	})
}

// TestLogFull has a job print more than the disk takes.
func TestLogFull(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fixture) {
		f.engine.Run = func(p *fakeengine.Process) int {
			fillDisk(t, f.records.latest()+".log")
			fmt.Fprintln(p.Stdout, strings.Repeat("x", 1000))
			return linger(p, nil)
		}
		end := f.do("print")
		end.want(t, "failed: The builder cannot keep the job's log. Make room on the disk of its folder for logs (IGLU_STATE_DIR), and send the job again.")
		if left := f.left(); left != "" {
			t.Errorf("left: %s", left)
		}
	})
}

// TestLogFullBeforeStart has no line of the builder's own fit on the disk any more, before the job's container is created or
// while the job waits for a slot. The job is not just cancelled because nobody can follow it: the message to its client says why.
func TestLogFullBeforeStart(t *testing.T) {
	const want = "failed: The builder cannot keep the job's log. Make room on the disk of its folder for logs (IGLU_STATE_DIR), and send the job again."
	bubble(t, nil, func(t *testing.T, f *fixture) {
		f.engine.At(callAt("look for the image", "GET /images/.*", 1), func() { fillDisk(t, f.records.latest()+".log") })
		f.do("linger").want(t, want)
	})
	bubble(t, func(o *options) { o.MaxQueued = 2 }, func(t *testing.T, f *fixture) {
		first := f.send(requestOf("linger"))
		first.waitFor(t, "lingering")
		second := f.send(requestOf("linger"))
		second.waitFor(t, "no job ahead")
		third := f.send(requestOf("linger"))
		third.waitFor(t, "1 job ahead")
		fillDisk(t, f.records.latest()+".log")
		second.cancel(jobend.Cancelled)
		second.finish()
		third.finish().want(t, want)
		first.cancel(jobend.Cancelled)
		first.finish()
	})
}

// fillDisk has no write to an open file succeed any more, as on a disk that is full.
func fillDisk(t *testing.T, name string) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer full.Close()
	const open = "/proc/self/fd"
	files, err := os.ReadDir(open)
	if err != nil {
		t.Error(err)
		return
	}
	for _, file := range files {
		target, _ := os.Readlink(filepath.Join(open, file.Name()))
		fd, err := strconv.Atoi(file.Name())
		if err != nil || filepath.Base(target) != name {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err == nil && flags&unix.O_ACCMODE == unix.O_RDWR { // else somebody reads it
			if err := syscall.Dup3(int(full.Fd()), fd, syscall.O_CLOEXEC); err != nil {
				t.Error(err)
			}
			return
		}
	}
	t.Errorf("%s is not open", name)
}

// TestAddressesOfOthers has another builder of the instance create the jobs' network before this one starts: the addresses
// of its jobs are known after Check, before this builder has clients.
func TestAddressesOfOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, fakeengine.Docker, nil)
		f.engine.MakeNetwork("iglu-builder-test-jobs", map[string]string{engine.LabelInstance: "test"})
		if err := f.b.Check(t.Context()); err != nil {
			t.Error(err)
		}
		if !f.b.local.engine.(*docker.Engine).IsOfJobs(netip.MustParseAddr("172.26.0.7"), netip.Addr{}) {
			t.Error("the addresses of the other builder's jobs are not known")
		}
	})
}
