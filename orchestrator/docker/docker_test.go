package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	networktypes "github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/images"
	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/test/kit/fakeengine"
)

// TestHost takes the engine's address from the options, or from the environment.
func TestHost(t *testing.T) {
	for _, test := range []struct{ option, environ, want string }{
		{"", "unix:///from/environ", "/from/environ:80"},
		{"unix:///from/option", "unix:///from/environ", "/from/option:80"},
		{"tcp://engine.invalid:2375", "", "engine.invalid:2375"},
	} {
		t.Setenv(client.EnvOverrideHost, test.environ)
		dialled := ""
		d, err := New(Options{Host: test.option, Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
			dialled = addr
			return nil, errors.New("not now")
		}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.Info(t.Context())
		wantTold(t, err, noAnswer)
		wantEqual(t, "dialled", dialled, test.want)
		d.Close()
	}
	_, err := New(Options{Host: "nowhere"}, nil)
	wantTold(t, err, "configure the connection to the engine: unable to parse docker host `nowhere`")
}

// TestForeignAgent has an agent that the builder does not know, or that does not know it.
func TestForeignAgent(t *testing.T) {
	d, err := New(Options{Host: "tcp://agent.invalid:2376", Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("remote error: tls: bad certificate")
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_, err = d.Info(t.Context())
	wantTold(t, err, "engine-gone: The builder and the agent of the container engine do not trust each other's keys. "+
		"Give both the keys that one run of 'iglu-builder agent keys' has made (IGLU_AGENT_KEYS). [answer]")
}

// TestDialWithoutDockersTLS sets Docker's variables for TLS. They are ignored if Dial is set.
func TestDialWithoutDockersTLS(t *testing.T) {
	t.Setenv(client.EnvOverrideCertPath, "/nonexistent")
	d, err := New(Options{Host: "tcp://agent.invalid:2376", Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("not now")
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
}

// TestForbidden calls a method that does not ping the engine first, with an engine that refuses the builder.
func TestForbidden(t *testing.T) {
	t.Parallel()
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
		f.fake.Refuse(syscall.EACCES)
		_, err := f.Image(t.Context(), func(string) {})
		wantTold(t, err, notAllowed+"[look for the job image]")
	})
}

// notAllowed is what is said of an engine that refuses the builder, without the call.
const notAllowed = "engine-gone: The builder has no permission to use the container engine. Run it as a user of the group that the engine's socket " +
	"belongs to (with docker-compose, set DOCKER_GID to that group's number). "

// TestNoEngine calls each method that pings the engine first: without an engine, with one that refuses the builder, and
// with one that does not answer.
func TestNoEngine(t *testing.T) {
	t.Parallel()
	calls := map[string]func(context.Context, *fixture) error{
		"Info":           func(ctx context.Context, f *fixture) error { _, err := f.Info(ctx); return err },
		"List":           func(ctx context.Context, f *fixture) error { _, err := f.List(ctx); return err },
		"Volumes.List":   func(ctx context.Context, f *fixture) error { _, err := f.Volumes().List(ctx); return err },
		"Volumes.Remove": func(ctx context.Context, f *fixture) error { return f.Volumes().Remove(ctx, "some") },
	}
	for _, test := range []struct {
		name string
		do   func(*fakeengine.Engine)
		want string
		took time.Duration
	}{
		{"not running", func(e *fakeengine.Engine) { e.Refuse(syscall.ECONNREFUSED) }, noAnswer, 0},
		{"no socket", func(e *fakeengine.Engine) { e.Refuse(syscall.ENOENT) }, noAnswer, 0},
		{"not allowed", func(e *fakeengine.Engine) { e.Refuse(syscall.EACCES) }, notAllowed + "[answer]", 0},
		{"hung", (*fakeengine.Engine).Hang, noAnswer, 3 * time.Second},
	} {
		for name, call := range calls {
			t.Run(test.name+"/"+name, func(t *testing.T) {
				bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
					test.do(f.fake)
					begun := time.Now()
					wantTold(t, call(t.Context(), f), test.want)
					wantTook(t, begun, test.took)
					f.fake.Return()
					wantTold(t, call(t.Context(), f), "")
				})
			})
		}
	}
}

// TestInfo asks for the machine twice; the engine is asked once.
func TestInfo(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		for range 2 {
			got, err := f.Info(t.Context())
			want := engine.Info{ID: "VH2H:UQ7C:A2AF:HVR7:ZY53:SOVM:DZFX:QTRE:3C2A:DGDX:HFKQ:G52L", Name: "recorded-host", Platform: "linux/amd64",
				CPUs: 2, Memory: 25_276_063_744}
			if f.podman {
				want.ID = "recorded-host"
			}
			if got != want || err != nil {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		}
		wantAll(t, "requests", f.requests(".*"), "HEAD /_ping", "GET /info", "GET /version", "HEAD /_ping")
	})
}

// TestMachineChanges has an engine that is away, and then has another machine. What is known of the first is not used for the
// second. The log has what is new.
func TestMachineChanges(t *testing.T) {
	t.Parallel()
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
		for _, notEnforced := range [][]string{{}, {"CpuCfsQuota"}, {"CpuCfsQuota"}} {
			f.fake.Refuse(syscall.ECONNREFUSED)
			_, err := f.Info(t.Context())
			wantTold(t, err, noAnswer)
			f.fake.NotEnforced = notEnforced
			f.fake.Return()
			_, err = f.Info(t.Context())
			wantTold(t, err, "")
		}
		wantEqual(t, "questions for the machine", len(f.requests("GET /info")), 3)
		const sandbox = "level=INFO msg=\"the container is the sandbox of builds: Nix's own is not used on this engine\"\n"
		wantEqual(t, "log", f.log.String(), sandbox+"level=WARN msg=\"the container engine cannot enforce these settings: "+
			"its machine lacks control groups for them\" settings=[IGLU_JOB_CPUS]\n"+sandbox)
	})
}

// TestInfoFails lets the calls that describe the machine fail. The next Info calls them again.
func TestInfoFails(t *testing.T) {
	t.Parallel()
	const call = "describe its machine"
	const late = `Get "http://%%2Frun%%2Fdocker.sock/v1.41/%s": context deadline exceeded`
	for _, test := range []struct {
		call  string
		fault fakeengine.Fault
		want  string
		took  time.Duration
	}{
		{"GET /info", "500", failedTo(call, says), 0},
		{"GET /version", "500", failedTo(call, says), 0},
		{"GET /info", fakeengine.Gone, stoppedAnswering(call), 0},
		{"GET /version", fakeengine.Cut, stoppedAnswering(call), 0},
		{"GET /info", fakeengine.Stall, failedTo(call, fmt.Sprintf(late, "info")), 2 * time.Minute},
		{"GET /version", fakeengine.Stall, failedTo(call, fmt.Sprintf(late, "version")), 2 * time.Minute},
	} {
		t.Run(test.call+"/"+string(test.fault), func(t *testing.T) {
			bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
				f.fake.Break(callAt(test.call, 1), test.fault)
				begun := time.Now()
				got, err := f.Info(t.Context())
				wantTold(t, err, test.want)
				wantTook(t, begun, test.took)
				wantEqual(t, "info", got, engine.Info{})
				f.fake.Return()
				_, err = f.Info(t.Context())
				wantTold(t, err, "")
			})
		})
	}
}

// TestVersion has engines of other versions of the API. A ping without a version does not count.
func TestVersion(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]string{"1.41": "/v1.41/info", "1.44": "/v1.44/info", "9.99": "/v1.51/info"} {
		bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
			f.fake.APIVersion = version
			if _, err := f.Info(t.Context()); err != nil {
				t.Error(err)
			}
			wantEqual(t, "path with version "+version, f.fake.Paths()[1], want)
		})
	}
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
		f.fake.Answer(callAt("HEAD /_ping", 1), 200, "{}")
		if _, err := f.Info(t.Context()); err != nil {
			t.Error(err)
		}
		wantAll(t, "paths", f.fake.Paths(), "/_ping", "/_ping", "/v1.41/info", "/v1.41/version")
	})
}

// TestReplaced replaces the container engine by one with another version of the API, of which the negotiated one may not
// be supported any more: an Engine says so, and one that is opened again works, and knows what the other knew.
func TestReplaced(t *testing.T) {
	t.Parallel()
	for before, after := range map[string]string{"1.43": "1.52", "1.51": "1.47"} {
		bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
			f.fake.APIVersion = before
			other := programFile(t, "another program")
			f.UseProgram(other, "linux/other")
			f.network.noteSubnets(networktypes.IPAM{Config: []networktypes.IPAMConfig{{Subnet: "172.26.0.0/16"}}})
			if _, err := f.Info(t.Context()); err != nil {
				t.Fatal(err)
			}
			f.fake.APIVersion = after
			for range 2 {
				_, err := f.Info(t.Context())
				wantTold(t, err, "engine-gone: The container engine was replaced by another version. Send the job again. ["+callPing+"]")
				if !errors.Is(err, ErrReplaced) {
					t.Errorf("the error is %v", err)
				}
			}
			again, err := f.Reopen()
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			if _, err := again.Info(t.Context()); err != nil {
				t.Error(err)
			}
			paths := f.fake.Paths()
			wantEqual(t, "last path", paths[len(paths)-1], "/v"+min(after, "1.51")+"/version")
			file, _ := again.program.known()
			if file != other || again.program.madeFor() != "linux/other" || !again.IsOfJobs(netip.MustParseAddr("172.26.0.7"), netip.Addr{}) {
				t.Errorf("it has forgotten the program, %s for %s, or the network", file, again.program.madeFor())
			}
		})
	}
}

// TestImage uses an image that exists, one that is pulled, and one that cannot be pulled.
func TestImage(t *testing.T) {
	t.Parallel()
	const (
		missing = "no-image: The job image %s is not on the engine and cannot be pulled: %s. " +
			"Check the image's name (IGLU_JOB_IMAGE) and that the engine reaches its registry. [pull the job image]"
		other = "other.invalid/nothing:2"
	)
	for _, test := range []struct {
		name, recording string
		ref             string
		pull            images.Policy
		missing         bool
		fault           fakeengine.Fault // of the first question
		want            string           // the error
		lines           string           // of the pull: its last one
	}{
		{"there", fakeengine.Docker, fakeengine.ImageRef, images.PullMissing, false, "", "", ""},
		{"there", fakeengine.Podman, fakeengine.ImageRef, images.PullMissing, false, "", "", ""},
		{"never pulled, but there", fakeengine.Docker, fakeengine.ImageRef, images.PullNever, false, "", "", ""},
		{"pulled", fakeengine.Docker, fakeengine.ImageRef, images.PullMissing, true, "", "", "pulled 5.024MiB in 0s: Status: Downloaded newer image for registry.invalid/iglu/recorded:1"},
		{"pulled", fakeengine.Podman, fakeengine.ImageRef, images.PullMissing, true, "", "", "pulled 0B in 0s: "},
		{"pulled again", fakeengine.Docker, fakeengine.ImageRef, images.PullAlways, false, "", "", "pulled 5.024MiB in 0s: Status: Downloaded newer image for registry.invalid/iglu/recorded:1"},
		{"never pulled", fakeengine.Docker, fakeengine.ImageRef, images.PullNever, true, "",
			fmt.Sprintf(missing, fakeengine.ImageRef, "it is never pulled (IGLU_PULL)"), ""},
		{"not in the registry", fakeengine.Docker, other, images.PullMissing, true, "",
			fmt.Sprintf(missing, other, "Error response from daemon: manifest for other.invalid/nothing:2 not found: manifest unknown: manifest unknown"), "pulling " + other},
		{"not in the registry", fakeengine.Podman, other, images.PullMissing, true, "",
			fmt.Sprintf(missing, other, "initializing source docker://other.invalid/nothing:2: reading manifest 1 in other.invalid/nothing: manifest unknown: manifest unknown"), "pulling " + other},
		{"failing", fakeengine.Docker, fakeengine.ImageRef, images.PullMissing, false, "500",
			failedTo("look for the job image", "inspect image "+fakeengine.ImageRef+": "+says), ""},
		{"gone", fakeengine.Docker, fakeengine.ImageRef, images.PullMissing, false, fakeengine.Gone, stoppedAnswering("look for the job image"), ""},
	} {
		t.Run(test.name+"/"+test.recording, func(t *testing.T) {
			bubble(t, test.recording, func(o *Options) { o.Image, o.Pull = test.ref, test.pull }, func(t *testing.T, f *fixture) {
				f.fake.Missing = test.missing
				if test.fault != "" {
					f.fake.Break(callAt("GET /images/.*", 1), test.fault)
				}
				var last string
				got, err := f.Image(t.Context(), func(line string) { last = line })
				wantTold(t, err, test.want)
				wantEqual(t, "last line", last, test.lines)
				var want engine.Image
				if test.want == "" {
					want = recordedImage(test.recording)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}

// recordedImage is the image in the recorded answers.
func recordedImage(recording string) engine.Image {
	image := engine.Image{
		ID: "sha256:32ed134f893ba5bf30b6122192120ccf1e232463c1db558686a67f4b3e3035b3", Ref: fakeengine.ImageRef,
		Digest:   "sha256:b7e36ca00b3ce2047e30de95ce727d4411d608a8b208f5090066acd2633ae3d9",
		Platform: "linux/" + runtime.GOARCH, Size: 9_377_072,
	}
	if recording == fakeengine.Podman {
		image.Size = 9_392_038
	}
	return image
}

// TestOtherPlatform has an engine of another architecture, and then one of this.
func TestOtherPlatform(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		f.fake.Arch = "s390x"
		_, err := f.Create(t.Context(), spec("one"))
		wantTold(t, err, fmt.Sprintf("The container engine runs linux/s390x, but this builder is made for linux/%s. "+
			"Use an iglu-builder made for the engine's platform.", runtime.GOARCH))
		wantEqual(t, "left", f.left(), "")
		f.fake.Arch = runtime.GOARCH
		f.create(t, "one")
	})
}

// TestUseProgram has an engine of another architecture get a program for that in place of one for this.
func TestUseProgram(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		f.fake.Arch = "s390x"
		file := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(file, []byte("for s390x"), 0o755); err != nil {
			t.Fatal(err)
		}
		f.UseProgram(file, "linux/s390x")
		f.create(t, "one")
		digest := sha256.Sum256([]byte("for s390x"))
		if want := f.program.prefix + hex.EncodeToString(digest[:6]); f.program.volume != want {
			t.Errorf("the program is in %s, want %s", f.program.volume, want)
		}
	})
}

// TestCallFailure checks the errors of calls, and the messages that clients get for them.
func TestCallFailure(t *testing.T) {
	t.Parallel()
	own := &engine.Failure{End: jobend.NoImage, What: "What.", Advice: "Advice.", Call: "pull"}
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"none":                {nil, ""},
		"of its own":          {own, "no-image: What. Advice. [pull]"},
		"around its own":      {fmt.Errorf("around: %w", own), "around: What. Advice."},
		"reset":               {&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, stoppedAnswering("sing")},
		"broken pipe":         {&net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EPIPE)}, stoppedAnswering("sing")},
		"ended":               {&url.Error{Op: "Get", URL: "http://host", Err: io.EOF}, stoppedAnswering("sing")},
		"ended in a body":     {errors.New("error during connect: unexpected EOF"), stoppedAnswering("sing")},
		"an end in its midst": {errors.New("EOF of what?"), failedTo("sing", "EOF of what?")},
		"other":               {errors.New("no voice"), failedTo("sing", "no voice")},
		"too late":            {context.DeadlineExceeded, failedTo("sing", "context deadline exceeded")},
	} {
		t.Run(name, func(t *testing.T) {
			got := callFailure("sing", test.err)
			wantTold(t, got, test.want)
			if !errors.Is(got, test.err) {
				t.Error("the cause is lost")
			}
		})
	}
}

// TestFailureText has a failure's text for the log, with its cause.
func TestFailureText(t *testing.T) {
	t.Parallel()
	got := callFailure("sing", errors.New("no voice")).Error()
	if !strings.HasSuffix(got, "say more. (no voice)") {
		t.Errorf("got %s", got)
	}
}
