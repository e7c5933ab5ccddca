package orchestrator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fakeengine"
)

// upkeepWith has containers run a job's command, or what a test says for a task of upkeep.
func upkeepWith(task func(p *fakeengine.Process, task string) int) func(*fakeengine.Process) int {
	return func(p *fakeengine.Process) int {
		if name := p.Getenv(jobenv.Upkeep); name != "" {
			return task(p, name)
		}
		return runCommand(p)
	}
}

// killOne has a job be killed from outside, so that its store need not be sound.
func (f *fixture) killOne() {
	f.t.Helper()
	j := f.send(requestOf("linger"))
	j.waitFor(f.t, "lingering")
	f.engine.Kill()
	j.finish()
	f.docker.settling.Wait()
	if got := f.conditions(); got != "suspect" {
		f.t.Fatalf("after a kill, the store is %s", got)
	}
}

const (
	fillingStore   = "iglu: this job begins with the image's own Nix store: filling "
	verifyingStore = "iglu: the job that had this store before did not end by itself: verifying the store"
	damagedStore   = "iglu: the store is damaged and is removed"
	slowStore      = "iglu: that takes too long: the store is removed"
)

// said returns which of these a job's log has.
func (e finished) said(lines ...string) (said []string) {
	for _, line := range lines {
		if strings.Contains(e.lines, line) {
			said = append(said, line)
		}
	}
	return said
}

// TestStoreOfKilledJob has the next job verify the store, which is sound, damaged, or takes for ever.
func TestStoreOfKilledJob(t *testing.T) {
	for name, test := range map[string]struct {
		verify func(p *fakeengine.Process) int
		want   []string
	}{
		"sound":    {func(p *fakeengine.Process) int { fmt.Fprintln(p.Stdout, 1000); return 0 }, []string{verifyingStore}},
		"damaged":  {func(*fakeengine.Process) int { return 1 }, []string{fillingStore, verifyingStore, damagedStore}},
		"for ever": {func(p *fakeengine.Process) int { return linger(p, nil) }, []string{fillingStore, verifyingStore, slowStore}},
	} {
		t.Run(name, func(t *testing.T) {
			forLong := func(o *Options) { o.Deadlines.Build = 2 * taskTimeout }
			bubble(t, forLong, func(t *testing.T, f *fixture) {
				f.engine.Run = upkeepWith(func(p *fakeengine.Process, task string) int {
					if task != jobenv.UpkeepVerify {
						t.Errorf("a job does %s", task)
					}
					return test.verify(p)
				})
				f.do("count 3").wantExit(t, 3)
				f.killOne()
				end := f.do("count 3")
				end.wantExit(t, 3)
				if got := end.said(fillingStore, verifyingStore, damagedStore, slowStore); fmt.Sprint(got) != fmt.Sprint(test.want) {
					t.Errorf("said %q, want %q", got, test.want)
				}
				if again := f.do("count 3"); again.said(fillingStore, verifyingStore) != nil || f.conditions() != "sound" || f.left() != "" {
					t.Errorf("then said %q, store %s, left %s", again.lines, f.conditions(), f.left())
				}
			})
		})
	}
}

// TestStoreOfKilledBuilder has a builder end without a word in the middle of a job.
func TestStoreOfKilledBuilder(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fixture) {
		f.do("count 3").wantExit(t, 3)
		j := f.send(requestOf("linger"))
		j.waitFor(t, "lingering")
		if f.conditions() != "leased" {
			t.Errorf("while a job has it, the store is %s", f.conditions())
		}
		stores, err := f.b.Stores(t.Context())
		if err != nil || len(stores) != 1 || stores[0].Lease != f.records.latest() || stores[0].Repository != "" {
			t.Errorf("stores: %+v, %v", stores, err)
		}
		entries, err := f.docker.ledger.all()
		if err != nil {
			t.Fatal(err)
		}
		j.cancel(jobend.Shutdown)
		j.finish()
		f.restart()
		for name, e := range entries { // as a builder leaves it that cannot write any more
			if err := f.docker.ledger.write(name, e); err != nil {
				t.Fatal(err)
			}
		}
		if end := f.do("count 3"); len(end.said(verifyingStore)) != 1 {
			t.Errorf("the store is not verified: %s", end.lines)
		}
	})
}

// repositories are the options of a builder whose stores have room for two.
func repositories(o *Options) {
	o.Stores.Mode, o.Stores.MaxBytes = StoreRepository, 30_000_000
}

// grows has jobs add to their stores.
func grows(bytes int64) func(*fakeengine.Process) int {
	return upkeepOr(func(p *fakeengine.Process) int {
		jobwire.NewWriter(p.Stdout, p.Getenv(jobenv.EventsToken)).Note(jobwire.Note{Usage: &jobwire.Usage{StoreBytes: bytes}})
		return count(p, 3)
	})
}

func upkeepOr(run func(*fakeengine.Process) int) func(*fakeengine.Process) int {
	return func(p *fakeengine.Process) int {
		if p.Getenv(jobenv.Upkeep) != "" {
			return runCommand(p)
		}
		return run(p)
	}
}

// doIn runs a command in a repository.
func (f *fixture) doIn(repository, command string) finished {
	f.t.Helper()
	end := f.send(&schemas.Request{Git: schemas.Git{Repository: repository}, BuildOptions: schemas.BuildOptions{Command: command}}).finish()
	f.docker.settling.Wait()
	return end
}

// inStores returns the repositories that have a store, the one that was used last first.
func (f *fixture) inStores() (all []string) {
	f.t.Helper()
	stores, err := f.b.Stores(f.t.Context())
	if err != nil {
		f.t.Error(err)
	}
	for _, s := range stores {
		all = append(all, s.Repository)
	}
	return all
}

// TestStoresMakeRoom has more repositories than there is room for stores: the one that was used
// least recently goes, unless somebody else uses it.
func TestStoresMakeRoom(t *testing.T) {
	bubble(t, repositories, func(t *testing.T, f *fixture) {
		f.engine.Run = grows(4_000_000) // beside the 9 MB or so of the image
		for i, want := range []string{"[0]", "[1 0]", "[2 1]", "[3 2]"} {
			f.doIn(fmt.Sprint(i), "count 3").wantExit(t, 3)
			time.Sleep(time.Minute)
			if got := fmt.Sprint(f.inStores()); got != want {
				t.Errorf("after %d jobs, the stores are %s, want %s", i+1, got, want)
			}
		}
		if n, bytes := f.b.StoresSize(); n != 2 || bytes < 18_000_000 || bytes > 30_000_000 {
			t.Errorf("%d stores take %d bytes", n, bytes)
		}
		used := f.engine.Left()[slices.IndexFunc(f.engine.Left(), func(s string) bool { return strings.Contains(s, "-store-") })]
		f.engine.Hold(strings.TrimPrefix(used, "volume "))
		f.doIn("4", "count 3").wantExit(t, 3)
		f.doIn("5", "count 3").wantExit(t, 3)
		if got := f.inStores(); len(got) != 2+1 && len(got) != 2 || !slices.Contains(f.engine.Left(), used) {
			t.Errorf("what somebody uses is gone, or nothing else: %v", got)
		}
		if err := f.b.RemoveStore(t.Context(), strings.TrimPrefix(used, "volume ")); err == nil || !strings.Contains(err.Error(), "volume is in use") {
			t.Errorf("it can be removed: %v", err)
		}
	})
}

// TestUpkeep has a store be measured, found damaged, and collected when no job is there.
func TestUpkeep(t *testing.T) {
	measured := func(size int) func(*fakeengine.Process, string) int {
		return func(p *fakeengine.Process, _ string) int { fmt.Fprintf(p.Stdout, "some words\n%d\n", size); return 0 }
	}
	tests := []struct {
		name   string
		killed bool
		task   func(t *testing.T, p *fakeengine.Process, task string) int
		tasks  string // that are done, in turn
		stores int    // that are left
	}{
		{"measured", false, func(t *testing.T, p *fakeengine.Process, task string) int { return measured(1234)(p, task) }, "measure", 1},
		{"verified", true, func(t *testing.T, p *fakeengine.Process, task string) int { return measured(1234)(p, task) }, "verify", 1},
		{"damaged", true, func(*testing.T, *fakeengine.Process, string) int { return 1 }, "verify", 0},
		{"not a number", false, func(_ *testing.T, p *fakeengine.Process, _ string) int { fmt.Fprintln(p.Stdout, "many"); return 0 }, "measure", 1},
		{"fails", false, func(*testing.T, *fakeengine.Process, string) int { return 1 }, "measure", 1},
		{"for ever", false, func(_ *testing.T, p *fakeengine.Process, _ string) int { return linger(p, nil) }, "measure", 0},
		{"collected", false, func(_ *testing.T, p *fakeengine.Process, task string) int {
			if strings.HasPrefix(task, jobenv.UpkeepCollect) {
				return measured(20_000_000)(p, task)
			}
			return measured(40_000_000)(p, task)
		}, "measure, collect 16000000", 1},
		{"too large", false, func(_ *testing.T, p *fakeengine.Process, task string) int { return measured(40_000_000)(p, task) },
			"measure, collect 16000000", 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, repositories, func(t *testing.T, f *fixture) {
				var tasks []string
				f.engine.Run = upkeepWith(func(p *fakeengine.Process, task string) int {
					tasks = append(tasks, task)
					return test.task(t, p, task)
				})
				ctx, stop := context.WithCancel(t.Context())
				tended := make(chan struct{})
				go func() { defer close(tended); f.b.Tend(ctx) }()
				if test.killed {
					j := f.send(&schemas.Request{Git: schemas.Git{Repository: "0"}, BuildOptions: schemas.BuildOptions{Command: "linger"}})
					j.waitFor(t, "lingering")
					f.engine.Kill()
					j.finish()
				} else {
					f.doIn("0", "count 3").wantExit(t, 3)
				}
				time.Sleep(restTime + taskTimeout + time.Minute)
				synctest.Wait()
				if got := strings.Join(tasks, ", "); got != test.tasks {
					t.Errorf("upkeep did %q, want %q", got, test.tasks)
				}
				if got := f.inStores(); len(got) != test.stores {
					t.Errorf("stores: %v", got)
				}
				f.doIn("0", "count 3").wantExit(t, 3)
				stop()
				<-tended
				if left := f.left(); left != "" {
					t.Errorf("left: %s", left)
				}
			})
		})
	}
}

// TestUpkeepGivesWay has a job come in the middle of upkeep, of a store that stays as it is.
func TestUpkeepGivesWay(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fixture) {
		begun := make(chan struct{}, 10)
		f.engine.Run = upkeepWith(func(p *fakeengine.Process, _ string) int {
			begun <- struct{}{}
			return linger(p, nil)
		})
		ctx, stop := context.WithCancel(t.Context())
		tended := make(chan struct{})
		go func() { defer close(tended); f.b.Tend(ctx) }()
		f.do("count 3").wantExit(t, 3)
		<-begun
		end := f.do("count 3")
		end.wantExit(t, 3)
		if end.took > time.Second || f.conditions() != "sound" {
			t.Errorf("the job took %s, and the store is %s", end.took, f.conditions())
		}
		stop()
		<-tended
	})
}

// TestRemovedBetweenJobs has an engine refuse to remove a job's container, which holds the job's
// secrets: it goes without a next job, at the second attempt.
func TestRemovedBetweenJobs(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fixture) {
		remove := "DELETE /containers/.*"
		f.engine.Break(callAt("remove", remove, 2), "500")
		f.engine.Break(callAt("remove", remove, 3), "500")
		ctx, stop := context.WithCancel(t.Context())
		tended := make(chan struct{})
		go func() { defer close(tended); f.b.Tend(ctx) }()
		f.do("count 3").wantExit(t, 3)
		time.Sleep(restTime + time.Second)
		if left := f.left(); left != "container JOB exited" {
			t.Errorf("after the first attempt: %s", left)
		}
		time.Sleep(retryTime)
		if left := f.left(); left != "" {
			t.Errorf("after the second attempt: %s", left)
		}
		stop()
		<-tended
	})
}

// verifyCalls are those of a job that finds a store that may not be sound.
var verifyCalls = []fakeengine.Call{
	callAt("inspect store", "GET /volumes/.*-store-.*", 1),
	callAt("create", "POST /containers/create", 1),
	callAt("attach", "POST /containers/.*/attach", 1),
	callAt("wait", "POST /containers/.*/wait", 1),
	callAt("start", "POST /containers/.*/start", 1),
	callAt("inspect", "GET /containers/.*/json", 1),
	callAt("remove container", "DELETE /containers/.*", 1),
	callAt("remove store", "DELETE /volumes/.*", 1),
	callAt("create store", "POST /volumes/create", 1),
}

// TestFaultsOfVerifying has every call go wrong that a job makes when it finds a damaged store:
// never does a job get the store that is damaged.
func TestFaultsOfVerifying(t *testing.T) {
	report := newReport(faults[:len(faults)-1])
	t.Run("all", func(t *testing.T) {
		for _, call := range verifyCalls {
			report.row(call.Name)
			for _, fault := range report.faults {
				t.Run(call.Name+"/"+string(fault), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) { report.note(call.Name, fault, breakVerifying(t, call, fault)) })
				})
			}
		}
	})
	report.want(t, "testdata/faults-verifying.txt")
}

func breakVerifying(t *testing.T, call fakeengine.Call, fault fakeengine.Fault) string {
	f := newFixture(t, fakeengine.Docker, nil)
	f.do("count 3").wantExit(t, 3)
	f.killOne()
	f.observed.take()
	f.engine.Run = upkeepWith(func(p *fakeengine.Process, _ string) int { return 1 })
	hit := f.engine.Break(call, fault)
	end := f.do("count 3")
	if !hit() {
		t.Error("the call was not made")
	}
	outcome := f.outcome(end)
	if end.event.End == "exited" && end.said(fillingStore) == nil {
		t.Errorf("a job has got the damaged store: %s", end.lines)
	}
	f.engine.Return()
	next := f.do("count 3")
	next.wantExit(t, 3)
	if left := f.left(); end.said(fillingStore) == nil && next.said(fillingStore) == nil || left != "" || f.conditions() != "sound" {
		t.Errorf("then the store is %s, left: %s: %s", f.conditions(), left, next.lines)
	}
	return outcome
}
