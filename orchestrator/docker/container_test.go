package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	containertypes "github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/test/kit/fakeengine"
)

// TestCreate has what a container runs; TestHostConfig has the rest of it.
func TestCreate(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		s := spec("iglu-job-1")
		s.Env = []string{"IGLU_COMMAND=nix build", "EMPTY="}
		s.Labels = map[string]string{engine.LabelJob: "1", engine.LabelBuilder: "b"}
		c, err := f.Create(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		grace := 10
		want := &containertypes.Config{
			Image: fakeengine.ImageRef, Entrypoint: []string{"/iglu/iglu-builder", "job"}, Cmd: []string{}, Env: s.Env,
			User: "0", WorkingDir: "/", StopSignal: "SIGTERM", StopTimeout: &grace, OpenStdin: true, StdinOnce: true,
			Labels:      map[string]string{engine.LabelInstance: "test", engine.LabelJob: "1", engine.LabelBuilder: "b"},
			Healthcheck: &containertypes.HealthConfig{Test: []string{"NONE"}},
		}
		if diff := cmp.Diff(want, f.fake.Containers()[0].Config); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if left := f.fake.Left()[0]; left != "container iglu-job-1 created" || plain(c.ID()) != "ID" {
			t.Errorf("got %s as %s", left, c.ID())
		}
	})
}

// TestNameTaken makes a container twice. The engine is not asked for its machine again.
func TestNameTaken(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		f.create(t, "one")
		c, err := f.Create(t.Context(), spec("one"))
		wantTold(t, err, "make the container one: it is in use")
		if c != nil || !errors.Is(err, engine.ErrInUse) {
			t.Errorf("got %v, %v", c, err)
		}
		f.create(t, "two")
		wantAll(t, "questions for the machine", f.requests("GET /info"), "GET /info")
	})
}

// TestCreateFails lets the calls of Create fail. The next Create asks the engine for its machine again, and succeeds.
func TestCreateFails(t *testing.T) {
	t.Parallel()
	const (
		call    = "make the container"
		machine = "describe its machine"
	)
	for _, test := range []struct {
		name  string
		call  fakeengine.Call
		fault fakeengine.Fault
		want  string
		took  time.Duration
	}{
		{"machine", callAt("GET /info", 1), "500", failedTo(machine, says), 0},
		{"network", callAt("GET /networks", 1), "500", failedTo("provide the jobs' network", says), 0},
		{"network", callAt("POST /networks/create", 1), fakeengine.Gone, stoppedAnswering("provide the jobs' network"), 0},
		{"program", callAt("POST /volumes/create", 1), "500", failedTo("take the builder's program", "create volume: "+says), 0},
		{"container", callAt("POST /containers/create", 4), "500", failedTo(call, says), 0},
		{"container", callAt("POST /containers/create", 4), fakeengine.Reset, stoppedAnswering(call), 0},
		{"container", callAt("POST /containers/create", 4), fakeengine.Stall,
			failedTo(call, `Post "http://%2Frun%2Fdocker.sock/v1.41/containers/create?name=one": context deadline exceeded`), 2 * time.Minute},
	} {
		t.Run(test.name+"/"+string(test.fault), func(t *testing.T) {
			bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
				f.fake.Break(test.call, test.fault)
				begun := time.Now()
				c, err := f.Create(t.Context(), spec("one"))
				wantTold(t, err, test.want)
				wantTook(t, begun, test.took)
				if c != nil {
					t.Error("there is a container")
				}
				f.fake.Return()
				f.create(t, "one")
				wantEqual(t, "questions for the machine", len(f.requests("GET /info")), 2)
			})
		})
	}
	both(t, nil, func(t *testing.T, f *fixture) {
		s := spec("one")
		s.Image = "missing"
		_, err := f.Create(t.Context(), s)
		lost := "No such image: missing"
		if f.podman {
			lost = "no such image: missing: image not known"
		}
		// The network is the first thing that needs the image.
		wantTold(t, err, failedTo("provide the jobs' network", "Error response from daemon: "+lost))
		if !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("without the image, before anything else is there: %v", err)
		}
		f.create(t, "two")
		if _, err := f.Create(t.Context(), s); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("without the image, after that: %v", err)
		}
	})
}

// TestStoreFilledSlowly has Docker need minutes for a container, because it fills a store from a large image. It gets them,
// but not for a container without a store, and not after the job has ended.
func TestStoreFilledSlowly(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		store         string
		takes, cancel time.Duration
		took          time.Duration
		works         bool
	}{
		{"store", 14 * time.Minute, time.Hour, 14 * time.Minute, true},
		{"store", time.Hour, time.Hour, 15 * time.Minute, false},
		{"store", time.Hour, 5 * time.Minute, 7 * time.Minute, false},
		{"store", 6 * time.Minute, 5 * time.Minute, 6 * time.Minute, true},
		{"", 14 * time.Minute, time.Hour, 2 * time.Minute, false},
	} {
		bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
			f.fake.At(callAt("POST /containers/create", 4), func() { time.Sleep(test.takes) })
			s := spec("one")
			s.Store.Name = test.store
			ctx, cancel := context.WithTimeout(t.Context(), test.cancel)
			defer cancel()
			begun := time.Now()
			_, err := f.Create(ctx, s)
			wantTook(t, begun, test.took)
			if (err == nil) != test.works {
				t.Errorf("%+v: %v", test, err)
			}
			time.Sleep(time.Hour) // until the engine has ended the call
		})
	}
}

// TestStoreFilledInStart has an engine need minutes to attach to a container. Podman fills a fresh store then, and gets them.
// The other builders see that in the container's label.
func TestStoreFilledInStart(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		recording string
		fresh     bool
		takes     time.Duration
		cancel    time.Duration
		took      time.Duration
		works     bool
		label     string
	}{
		{fakeengine.Podman, true, 14 * time.Minute, time.Hour, 14 * time.Minute, true, "true"},
		{fakeengine.Podman, true, time.Hour, 2 * time.Hour, 15 * time.Minute, false, "true"},
		{fakeengine.Podman, true, 14 * time.Minute, 5 * time.Minute, 5 * time.Minute, false, "true"},
		{fakeengine.Podman, false, 14 * time.Minute, time.Hour, startTimeout, false, ""},
		{fakeengine.Docker, true, 14 * time.Minute, time.Hour, startTimeout, false, ""}, // it has filled the store in Create
	} {
		bubble(t, test.recording, nil, func(t *testing.T, f *fixture) {
			f.fake.At(callAt("POST /containers/.*/attach", 1), func() { time.Sleep(test.takes) })
			s := spec("one")
			s.Store.Name, s.Fresh = "store", test.fresh
			c, err := f.Create(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			wantEqual(t, "label", f.fake.Containers()[0].Config.Labels[engine.LabelFills], test.label)
			ctx, cancel := context.WithTimeout(t.Context(), test.cancel)
			defer cancel()
			begun := time.Now()
			stream, err := c.Start(ctx)
			wantTook(t, begun, test.took)
			if (err == nil) != test.works {
				t.Errorf("%+v: %v", test, err)
			}
			if err == nil {
				stream.Close()
			}
			time.Sleep(time.Hour) // until the engine has ended the call
		})
	}
}

// TestCreateAndContext cancels the context of Create before the container is created, while it is created, and while the
// engine answers nothing. Only the creation itself does not end with the context.
func TestCreateAndContext(t *testing.T) {
	t.Parallel()
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := f.Create(ctx, spec("one")); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		wantEqual(t, "left", f.left(), "")
	})
	for call, left := range map[string]string{ // what is begun under a lock is completed
		"POST /networks/create":      "network iglu-builder-test-jobs",
		"PUT /containers/.*/archive": "network iglu-builder-test-jobs, volume PROGRAM",
	} {
		bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
			ctx, cancel := context.WithCancel(t.Context())
			f.fake.At(callAt(call, 1), func() {
				cancel()
				time.Sleep(time.Second)
			})
			if _, err := f.Create(ctx, spec("one")); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", call, err)
			}
			wantEqual(t, "left", f.left(), left)
		})
	}
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
		ctx, cancel := context.WithCancel(t.Context())
		f.fake.At(callAt("POST /containers/create", 4), func() { // after two locks, and the container that fills the volume
			cancel()
			time.Sleep(time.Second)
		})
		if _, err := f.Create(ctx, spec("one")); err != nil {
			t.Error(err)
		}
		wantEqual(t, "left", f.left(), "container one created, network iglu-builder-test-jobs, volume PROGRAM")
	})
	for _, call := range []string{"GET /info", "GET /networks", "GET /volumes/.*"} {
		bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
			f.create(t, "one")
			f.forget()
			f.create(t, "two") // it knows the volume again, and the next one asks for everything
			f.Engine.mu.Lock()
			f.machine = nil
			f.Engine.mu.Unlock()
			f.fake.Break(callAt(call, 1), fakeengine.Stall)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begun := time.Now()
			if _, err := f.Create(ctx, spec("three")); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", call, err)
			}
			wantTook(t, begun, time.Second)
		})
	}
}

// TestExit runs containers that end by themselves. Podman does not notice that the kernel has killed a process.
func TestExit(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name        string
		code        int
		outOfMemory bool
		docker      engine.Exit
		podman      engine.Exit
	}{
		{"success", 0, false, engine.Exit{}, engine.Exit{}},
		{"failure", 3, false, engine.Exit{Code: 3}, engine.Exit{Code: 3}},
		{"out of memory", 137, true, engine.Exit{Code: 137, OutOfMemory: true}, engine.Exit{Code: 137}},
		{"success although something was killed", 0, true, engine.Exit{}, engine.Exit{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			both(t, nil, func(t *testing.T, f *fixture) {
				c, s := f.start(t, func(p *fakeengine.Process) int {
					if test.outOfMemory {
						p.RunOutOfMemory()
					}
					for i := range 3 {
						fmt.Fprintln(p.Stdout, "out", i)
						fmt.Fprintln(p.Stderr, "err", i)
					}
					time.Sleep(time.Hour) // longer than any bound of a call
					fmt.Fprint(p.Stdout, "the end")
					return test.code
				})
				var out, err bytes.Buffer
				if err := s.Copy(&out, &err); err != nil {
					t.Error(err)
				}
				wantEqual(t, "stdout", out.String(), "out 0\nout 1\nout 2\nthe end")
				wantEqual(t, "stderr", err.String(), "err 0\nerr 1\nerr 2\n")
				want := test.docker
				if f.podman {
					want = test.podman
				}
				got, waitErr := c.Wait(t.Context())
				wantTold(t, waitErr, "")
				wantEqual(t, "exit", got, want)
				wantAll(t, "calls", f.requests("POST /containers/ID/.*|POST /containers/[0-9a-f]{64}/.*"),
					"POST /containers/ID/attach?stderr=1&stdin=1&stdout=1&stream=1", "POST /containers/ID/wait?condition=next-exit", "POST /containers/ID/start")
				if err := c.Remove(t.Context()); err != nil {
					t.Error(err)
				}
				wantAll(t, "removals", f.requests("DELETE .*")[3:], "DELETE /containers/ID?force=1&v=1")
			})
		})
	}
}

// TestUnsureExit uses an engine that notices the end of a container but cannot read the exit code, as Podman sometimes
// does: it is asked once more.
func TestUnsureExit(t *testing.T) {
	t.Parallel()
	const unsure, sure = `{"StatusCode":0,"Error":{"Message":"invalid character"}}`, `{"StatusCode":3}`
	const call = "wait for the container"
	for _, test := range []struct {
		answers []string
		want    engine.Exit
		failure string
		asked   []string
	}{
		{[]string{sure}, engine.Exit{Code: 3}, "", []string{"next-exit"}},
		{[]string{unsure, sure}, engine.Exit{Code: 3}, "", []string{"next-exit", "not-running"}},
		{[]string{unsure, unsure, sure}, engine.Exit{}, failedTo(call, "invalid character"), []string{"next-exit", "not-running"}},
		{[]string{"<html>"}, engine.Exit{}, failedTo(call, "<html>"), []string{"next-exit"}},
	} {
		bubble(t, fakeengine.Podman, nil, func(t *testing.T, f *fixture) {
			for i, answer := range test.answers {
				f.fake.Answer(callAt("POST /containers/.*/wait", i+1), 200, answer)
			}
			c, _ := f.start(t, func(p *fakeengine.Process) int { <-p.Killed; return 0 })
			got, err := c.Wait(t.Context())
			wantTold(t, err, test.failure)
			wantEqual(t, "exit", got, test.want)
			var asked []string
			for _, line := range f.requests("POST .*/wait.*") {
				asked = append(asked, strings.TrimPrefix(line, "POST /containers/ID/wait?condition="))
			}
			wantAll(t, "questions", asked, test.asked...)
		})
	}
}

// TestLostExit waits for a container until the context ends, and until the engine is killed.
func TestLostExit(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		c, s := f.start(t, func(p *fakeengine.Process) int { <-p.Killed; return 0 })
		why := errors.New("it took too long")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, why)
		defer cancel()
		if _, err := c.Wait(ctx); err != why {
			t.Errorf("got %v, want %v", err, why)
		}
		f.fake.Refuse(syscall.ECONNREFUSED)
		_, err := c.Wait(t.Context())
		wantTold(t, err, stoppedAnswering("wait for the container"))
		if err := s.Copy(io.Discard, io.Discard); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the output ends with %v", err)
		}
		wantTold(t, c.Remove(t.Context()), stoppedAnswering("remove the container"))
		f.fake.Return()
	})
}

// TestUnknownEnd has the engine not answer whether a container ran out of memory.
func TestUnknownEnd(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		fault fakeengine.Fault
		cause string
		took  time.Duration
	}{
		{"500", says, 0},
		{fakeengine.Stall, "context deadline exceeded", 2 * time.Minute},
	} {
		bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
			f.fake.Break(callAt("GET /containers/.*/json", 1), test.fault)
			c, _ := f.start(t, func(p *fakeengine.Process) int { p.RunOutOfMemory(); return 137 })
			begun := time.Now()
			got, err := c.Wait(t.Context())
			wantTold(t, err, "")
			wantTook(t, begun, test.took)
			wantEqual(t, "exit", got, engine.Exit{Code: 137})
			log := plain(f.log.String())
			if !strings.Contains(log, `level=WARN msg="cannot see whether the container ran out of memory" container=ID err=`) || !strings.Contains(log, test.cause) {
				t.Errorf("the log is\n%s", log)
			}
		})
	}
}

// TestStartFails lets a call of Start fail. Start returns after at most 45 s, and the next Create asks the engine for its
// machine again.
func TestStartFails(t *testing.T) {
	t.Parallel()
	const attach, start = "attach to the container", "start the container"
	const late = startTimeout
	for _, test := range []struct {
		name, recording string
		call            string
		fault           fakeengine.Fault
		want            string
		took            time.Duration
	}{
		{"attach refused", fakeengine.Docker, "attach", "404", failedTo(attach, "unable to upgrade to tcp, received 404"), 0},
		{"attach refused", fakeengine.Podman, "attach", "500", failedTo(attach, "unable to upgrade to tcp, received 500"), 0},
		{"attach lost", fakeengine.Docker, "attach", fakeengine.Lost, stoppedAnswering(attach), 0},
		{"attach stalled", fakeengine.Docker, "attach", fakeengine.Stall, failedTo(attach, "context deadline exceeded"), late},
		{"attach too slow", fakeengine.Docker, "attach", fakeengine.Slow, failedTo(attach, "context deadline exceeded"), late},
		{"start refused", fakeengine.Docker, "start", "404", failedTo(start, says), 0},
		{"start lost", fakeengine.Docker, "start", fakeengine.Reset, stoppedAnswering(start), 0},
		{"start stalled", fakeengine.Docker, "start", fakeengine.Stall,
			failedTo(start, `Post "http://%2Frun%2Fdocker.sock/v1.41/containers/ID/start": context deadline exceeded`), late},
		{"wait stalled", fakeengine.Docker, "wait", fakeengine.Stall,
			failedTo(start, `Post "http://%2Frun%2Fdocker.sock/v1.41/containers/ID/start": context deadline exceeded`), late},
	} {
		t.Run(test.name+"/"+test.recording, func(t *testing.T) {
			t.Parallel()
			bubble(t, test.recording, nil, func(t *testing.T, f *fixture) {
				f.fake.Break(callAt("POST /containers/.*/"+test.call, 1), test.fault)
				c := f.create(t, "one")
				begun := time.Now()
				s, err := c.Start(t.Context())
				wantTook(t, begun, test.took)
				if s != nil {
					t.Error("there is a stream")
				}
				wantTold(t, err, test.want)
				wantTold(t, c.Remove(t.Context()), "")
				f.create(t, "two")
				wantEqual(t, "questions for the machine", len(f.requests("GET /info")), 2)
			})
		})
	}
}

// TestAttachedTooLate has the engine attach after Start has returned: the connection is closed.
func TestAttachedTooLate(t *testing.T) {
	t.Parallel()
	bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
		f.fake.Break(callAt("POST /containers/.*/attach", 1), fakeengine.Slow)
		lost := make(chan time.Time, 1)
		f.fake.Run = func(p *fakeengine.Process) int {
			<-p.Lifeline
			lost <- time.Now()
			return 0
		}
		c := f.create(t, "one")
		begun := time.Now()
		if _, err := c.Start(t.Context()); err == nil {
			t.Error("it has started")
		}
		if err := f.client.ContainerStart(t.Context(), c.ID(), containertypes.StartOptions{}); err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "lifeline", (<-lost).Sub(begun), 90*time.Second)
	})
}

// TestStop stops containers that end when they are asked to, that do not, and that have ended.
func TestStop(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		run  func(p *fakeengine.Process) int
		took time.Duration
		code int
	}{
		{"obedient", func(p *fakeengine.Process) int { <-p.Terminated; time.Sleep(time.Second); return 143 }, time.Second, 143},
		{"stubborn", func(p *fakeengine.Process) int { <-p.Killed; return 0 }, 3 * time.Second, 137},
		{"ended", func(p *fakeengine.Process) int { return 5 }, 0, 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			both(t, nil, func(t *testing.T, f *fixture) {
				c, s := f.start(t, test.run)
				ctx, cancel := context.WithCancel(t.Context())
				cancel() // it is stopped all the same
				if test.name == "ended" {
					s.Copy(io.Discard, io.Discard)
				}
				begun := time.Now()
				wantTold(t, c.Stop(ctx, 3*time.Second), "")
				wantTook(t, begun, test.took)
				got, err := c.Wait(t.Context())
				wantTold(t, err, "")
				wantEqual(t, "exit", got, engine.Exit{Code: test.code})
			})
		})
	}
}

// TestStopFails uses an engine that cannot stop a container. Stop returns after at most 30 s.
func TestStopFails(t *testing.T) {
	t.Parallel()
	const call = "stop the container"
	for fault, test := range map[fakeengine.Fault]struct {
		want string
		took time.Duration
	}{
		"500":            {failedTo(call, says), 0},
		fakeengine.Reset: {stoppedAnswering(call), 0},
		fakeengine.Stall: {failedTo(call, `Post "http://%2Frun%2Fdocker.sock/v1.41/containers/ID/stop?t=3": context deadline exceeded`), 30 * time.Second},
	} {
		bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
			f.fake.Break(callAt("POST /containers/.*/stop", 1), fault)
			c, _ := f.start(t, func(p *fakeengine.Process) int { <-p.Killed; return 0 })
			begun := time.Now()
			wantTold(t, c.Stop(t.Context(), 3*time.Second), test.want)
			wantTook(t, begun, test.took)
		})
	}
	both(t, nil, func(t *testing.T, f *fixture) {
		c := f.create(t, "one")
		wantTold(t, c.Remove(t.Context()), "")
		why := "No such container: " + "ID"
		if f.podman {
			why = `no container with name or ID "ID" found: no such container`
		}
		wantTold(t, c.Stop(t.Context(), time.Second), failedTo(call, "Error response from daemon: "+why))
	})
}

// TestRemove removes containers that run, that have ended, and that are being removed already.
func TestRemove(t *testing.T) {
	t.Parallel()
	const call = "remove the container"
	const inProgress = `{"message":"removal of container one is already in progress"}`
	for _, test := range []struct {
		name string
		do   func(f *fixture)
		want string
		took time.Duration
		left bool
	}{
		{"running", func(*fixture) {}, "", 0, false},
		{"killed", func(f *fixture) { f.fake.Kill() }, "", 0, false},
		{"gone", func(f *fixture) {
			f.client.ContainerRemove(context.Background(), "one", containertypes.RemoveOptions{Force: true})
		}, "", 0, false},
		{"three times busy", func(f *fixture) { f.busy(3, inProgress) }, "", 300 * time.Millisecond, false},
		{"busy, then gone", func(f *fixture) {
			f.busy(1, inProgress)
			f.fake.Answer(callAt("DELETE /containers/.*", 2), 404, `{"message":"No such container: one"}`)
		}, "", 100 * time.Millisecond, true},
		{"busy for ever", func(f *fixture) {
			f.busy(10, inProgress)
			f.sent.latency.Store(int64(2905 * time.Millisecond)) // so that the deadline is between two calls
		},
			failedTo(call, "Error response from daemon: removal of container one is already in progress"), 30 * time.Second, true},
		{"failing", func(f *fixture) { f.fake.Break(callAt("DELETE /containers/.*", 1), "500") }, failedTo(call, says), 0, true},
		{"lost", func(f *fixture) { f.fake.Break(callAt("DELETE /containers/.*", 1), fakeengine.Lost) }, stoppedAnswering(call), 0, false},
		{"stalled", func(f *fixture) { f.fake.Break(callAt("DELETE /containers/.*", 1), fakeengine.Stall) },
			failedTo(call, `Delete "http://%2Frun%2Fdocker.sock/v1.41/containers/ID?force=1&v=1": context deadline exceeded`), 30 * time.Second, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, fakeengine.Docker, nil, func(t *testing.T, f *fixture) {
				c, _ := f.start(t, func(p *fakeengine.Process) int { <-p.Killed; return 0 })
				test.do(f)
				ctx, cancel := context.WithCancel(t.Context())
				cancel() // it is removed all the same
				begun := time.Now()
				wantTold(t, c.Remove(ctx), test.want)
				wantTook(t, begun, test.took)
				if left := strings.Contains(f.left(), "container"); left != test.left {
					t.Errorf("left: %s", f.left())
				}
			})
		})
	}
}

// busy has the engine answer to the next removals of a container that one is in progress.
func (f *fixture) busy(times int, answer string) {
	for n := range times {
		f.fake.Answer(callAt("DELETE /containers/.*", n+1), 409, answer)
	}
}

// TestRemoveListed removes containers by what List says of them.
func TestRemoveListed(t *testing.T) {
	t.Parallel()
	both(t, nil, func(t *testing.T, f *fixture) {
		f.create(t, "one")
		all, err := f.List(t.Context())
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		for range 2 { // then it is gone
			wantTold(t, f.Remove(t.Context(), all[0].ID), "")
		}
		wantEqual(t, "left", f.left(), "network iglu-builder-test-jobs, volume PROGRAM")
	})
}
