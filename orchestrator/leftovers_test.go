package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/test/kit/memengine"
)

// TestLeftovers uses containers of other builders in each state: only those that no builder can use any more are removed,
// after the right time.
func TestLeftovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := builder(t, func(p *memengine.Process) int {
			if strings.HasPrefix(p.Spec.Name, "living") {
				<-p.Killed
			}
			return 0
		})
		e := b.local.engine.(*memengine.Engine)
		make := func(name, builder string, start bool) {
			labels := map[string]string{engine.LabelBuilder: builder, engine.LabelJob: name}
			if name == "filling" {
				labels[engine.LabelFills] = "true"
			}
			c, err := e.Create(t.Context(), engine.Spec{Name: name, Labels: labels})
			if err == nil && start {
				var s engine.Stream
				s, err = c.Start(t.Context())
				if err == nil {
					t.Cleanup(func() { s.Close() })
				}
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		make("living", "other", true)
		make("ended", "other", true)
		make("created", "other", false)
		make("filling", "other", false)
		make("old version's", "", false)
		make("own, job has ended", b.id, false)
		for _, step := range []struct {
			after time.Duration
			want  string
		}{
			{0, "created, ended, filling, living, old version's"},
			{endedTime - time.Second, "created, ended, filling, living, old version's"},
			{time.Second, "created, filling, living, old version's"},
			{createdTime - endedTime - time.Second, "created, filling, living, old version's"},
			{time.Second, "filling, living"},
			{fillingTime - createdTime - time.Second, "filling, living"},
			{time.Second, "living"},
			{24 * time.Hour, "living"},
		} {
			time.Sleep(step.after)
			synctest.Wait()
			b.local.sweep(t.Context())
			if got := names(t, e); got != step.want {
				t.Errorf("after another %s: %s, want %s", step.after, got, step.want)
			}
		}
		cleanUp(t, e)
	})
}

// TestLeftoversOfHangingEngine stops the search for leftovers while the first of many is being removed, which takes long: the
// others are not tried, so that a builder that shuts down does not wait for them.
func TestLeftoversOfHangingEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := builder(t, nil)
		e := b.local.engine.(*memengine.Engine)
		for n := range 10 {
			if _, err := e.Create(t.Context(), engine.Spec{Name: fmt.Sprint(n)}); err != nil {
				t.Fatal(err)
			}
		}
		b.local.sweep(t.Context())
		time.Sleep(createdTime)
		ctx, stop := context.WithCancel(t.Context())
		tries := 0
		e.Fail = func(call string) error {
			if call == "Remove" {
				tries++
				stop()
				return errAway
			}
			return nil
		}
		b.local.sweep(ctx)
		if tries != 1 {
			t.Errorf("%d were tried", tries)
		}
		e.Fail = nil
		b.local.sweep(t.Context()) // it knows the others still
		if got := names(t, e); got != "" {
			t.Errorf("left: %s", got)
		}
	})
}

// TestOwnLeftovers looks at containers of this builder: of a job that runs, of one that has ended, and of a task of the
// maintenance, which belongs to no job.
func TestOwnLeftovers(t *testing.T) {
	l := leftovers{builder: "own", isRunning: func(job string) bool { return job == "runs" }}
	for _, test := range []struct {
		job   string
		state engine.State
		after time.Duration // it is a leftover; 0: never
	}{
		{"runs", engine.Created, createdTime}, {"runs", engine.Running, 0}, {"runs", engine.Ended, endedTime},
		{"has ended", engine.Created, 1}, {"has ended", engine.Running, 1}, {"has ended", engine.Ended, 1},
		{"", engine.Created, createdTime}, {"", engine.Running, 0}, {"", engine.Ended, endedTime},
	} {
		c := engine.Listed{State: test.state, Labels: map[string]string{engine.LabelBuilder: "own", engine.LabelJob: test.job}}
		for _, time := range []time.Duration{1, endedTime - 1, endedTime, createdTime - 1, createdTime, 24 * time.Hour} {
			if got := l.isLeftover(c, time); got != (test.after > 0 && time >= test.after) {
				t.Errorf("of job %q, %s for %s: it is a leftover: %t", test.job, test.state, time, got)
			}
		}
	}
}

// names returns those of the containers on an engine.
func names(t *testing.T, e engine.Engine) string {
	t.Helper()
	found, err := e.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, c := range found {
		all = append(all, c.Name)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// cleanUp removes all containers.
func cleanUp(t *testing.T, e engine.Engine) {
	t.Helper()
	found, err := e.List(t.Context())
	for _, c := range found {
		err = errors.Join(err, e.Remove(t.Context(), c.ID))
	}
	if err != nil {
		t.Error(err)
	}
}

// TestSweepAtTimes has a builder remove a leftover while it does nothing else.
func TestSweepAtTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := builder(t, nil)
		e := b.local.engine.(*memengine.Engine)
		if _, err := e.Create(t.Context(), engine.Spec{Name: "created"}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), createdTime+sweepInterval+time.Second)
		defer cancel()
		b.Maintain(ctx)
		if got := names(t, e); got != "" {
			t.Errorf("left: %s", got)
		}
	})
}

// silentEngine is an engine that lists its containers when answer is closed.
type silentEngine struct {
	engine.Engine
	answer chan struct{}
}

func (e silentEngine) List(context.Context) ([]engine.Listed, error) {
	<-e.answer
	return nil, nil
}

// TestSweepInProgress has a sweep begin while another one waits for the engine. It does not wait for the other one.
func TestSweepInProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := silentEngine{answer: make(chan struct{})}
		l := leftovers{seen: make(map[string]sighting)}
		done := make(chan error)
		go func() { done <- l.sweep(t.Context(), silent, nil) }()
		synctest.Wait()
		if err := l.sweep(t.Context(), silent, nil); err != nil {
			t.Error(err)
		}
		close(silent.answer)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestEngineAway stops the only engine for a while, when no job runs. The server's log says once that it does not answer, and
// once that it does again.
func TestEngineAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, log, _ := builder(t, nil)
		var away atomic.Bool
		b.local.engine.(*memengine.Engine).Fail = func(string) error {
			if away.Load() {
				return errAway
			}
			return nil
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			b.Maintain(ctx)
		}()
		var got []string
		for _, isAway := range []bool{false, true, false} {
			before := len(log.String())
			away.Store(isAway)
			time.Sleep(20 * time.Minute) // no maintenance is due
			lines := strings.SplitAfter(log.String()[before:], "\n")
			got = append(got, strings.Join(slices.DeleteFunc(lines, func(line string) bool { return strings.Contains(line, "level=DEBUG") }), ""))
		}
		stop()
		<-done
		for i, want := range []string{"", `level=WARN msg="the container engine does not answer" err="The container engine does not answer. Start it."`,
			`level=INFO msg="the container engine answers again"`} {
			if lines := strings.Count(got[i], "\n"); !strings.Contains(got[i], want) || lines > 1 || want == "" && lines > 0 {
				t.Errorf("its log, part %d, wants %q:\n%s", i, want, got[i])
			}
		}
	})
}

// TestFailedRemoval uses an engine that fails to remove a job's container: the next sweep removes it.
func TestFailedRemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := builder(t, func(p *memengine.Process) int { return ends(p, jobwire.End{ExitCode: 3}) })
		e := b.local.engine.(*memengine.Engine)
		e.Fail = func(call string) error {
			if call == "Remove" {
				return errors.New("no")
			}
			return nil
		}
		b.build(t.Context(), requestOf("nix build"), new(strings.Builder))
		b.background.Wait()
		b.local.sweep(t.Context())
		if got := names(t, e); !strings.HasPrefix(got, "iglu-job-test-") {
			t.Errorf("there is %q", got)
		}
		e.Fail = nil
		b.local.sweep(t.Context())
		if got := names(t, e); got != "" {
			t.Errorf("left: %s", got)
		}
	})
}

// TestCleanupGoesOn has an engine fail to remove one container: the others are removed, and the failure is returned.
func TestCleanupGoesOn(t *testing.T) {
	e := memengine.New(nil)
	for _, name := range []string{"a", "b", "c"} {
		if _, err := e.Create(t.Context(), engine.Spec{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	stuck := errors.New("stuck")
	e.Fail = func(call string) error {
		if call == "Remove" {
			e.Fail = nil // the others can be removed
			return stuck
		}
		return nil
	}
	removed := 0
	err := Cleanup(t.Context(), unused{e, nil}, func(kind, _ string) {
		if kind == "container" {
			removed++
		}
	})
	if found, _ := e.List(t.Context()); !errors.Is(err, stuck) || removed != 2 || len(found) != 1 {
		t.Errorf("%v, %d are removed, and %d are left", err, removed, len(found))
	}
}

// TestSweepGoesOn has an engine fail to remove one leftover: the sweep removes the others, and reports only those. The
// failure is counted, unless the sweep was told to end.
func TestSweepGoesOn(t *testing.T) {
	observed := new(observed)
	b, log, _ := builder(t, nil, func(o *Options) { o.Observer = observed })
	e := b.local.engine.(*memengine.Engine)
	for _, job := range []string{"one", "two"} { // which have ended
		if _, err := e.Create(t.Context(), engine.Spec{Name: job, Labels: map[string]string{engine.LabelBuilder: b.id, engine.LabelJob: job}}); err != nil {
			t.Fatal(err)
		}
	}
	b.local.sweep(t.Context())
	if got := names(t, e); got != "" || strings.Count(log.String(), "removed a leftover container") != 2 || strings.Contains(log.String(), "cannot remove") || observed.take() != nil {
		t.Errorf("left: %q, its log:\n%s", got, log)
	}
	for _, job := range []string{"one", "two"} {
		if _, err := e.Create(t.Context(), engine.Spec{Name: job, Labels: map[string]string{engine.LabelBuilder: b.id, engine.LabelJob: job}}); err != nil {
			t.Fatal(err)
		}
	}
	fails := 1
	ended, cancel := context.WithCancel(t.Context())
	e.Fail = func(call string) error {
		if call == "Remove" && fails > 0 {
			fails--
			cancel()
			return &engine.Failure{Call: "remove the container", What: "It is stuck."}
		}
		return nil
	}
	b.local.sweep(ended)
	if failed := observed.take(); failed != nil || strings.Contains(log.String(), "cannot remove") {
		t.Errorf("a sweep that was told to end: counted: %q, its log:\n%s", failed, log)
	}
	fails = 1
	b.local.sweep(t.Context())
	if got := names(t, e); got != "one" && got != "two" || strings.Count(log.String(), "removed a leftover container") != 3 {
		t.Errorf("left: %q, its log:\n%s", got, log)
	}
	if failed := fmt.Sprint(observed.take()); failed != "[remove the container]" || !strings.Contains(log.String(), "cannot remove leftover containers") {
		t.Errorf("counted: %s, its log:\n%s", failed, log)
	}
}

// unused is an engine in memory that has other things.
type unused struct {
	*memengine.Engine
	err error
}

func (u unused) RemoveUnused(_ context.Context, removed func(kind, name string)) error {
	removed("network", "jobs")
	return u.err
}

// TestCleanup calls Cleanup while a container runs, and when none runs.
func TestCleanup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memengine.New(func(p *memengine.Process) int { <-p.Terminated; return 0 })
		var removed []string
		note := func(kind, name string) { removed = append(removed, kind+" "+name) }
		running, err := e.Create(t.Context(), engine.Spec{Name: "running"})
		if err != nil {
			t.Fatal(err)
		}
		stream, err := running.Start(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Create(t.Context(), engine.Spec{Name: "created"}); err != nil {
			t.Fatal(err)
		}
		err = Cleanup(t.Context(), unused{e, nil}, note)
		if err == nil || !strings.HasPrefix(err.Error(), "containers of jobs are running: running\nhint: stop their builder first") || len(removed) > 0 {
			t.Errorf("while one runs: %v, removed %q", err, removed)
		}
		running.Stop(t.Context(), time.Second)
		stream.Close()
		synctest.Wait()
		err = Cleanup(t.Context(), unused{e, errors.New("in use")}, note)
		slices.Sort(removed)
		if got := fmt.Sprint(removed); fmt.Sprint(err) != "in use" || got != "[container 1 container 2 network jobs]" {
			t.Errorf("%v, removed %s", err, got)
		}
	})
}
