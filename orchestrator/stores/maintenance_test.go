package stores

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/orchestrator/engine"
)

// A maintained fixture has stores that a test maintains.
func maintained(t *testing.T, task func(ctx context.Context, task Task) (int, string, error)) (f *fixture, tasks func() []string, stop func()) {
	f = newFixture(t)
	var mu sync.Mutex
	var all []string
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Maintain(ctx, func(ctx context.Context, which Task) (int, string, error) {
			mu.Lock()
			all = append(all, which.Work)
			mu.Unlock()
			return task(ctx, which)
		})
	}()
	tasks = func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
	return f, tasks, func() {
		cancel()
		<-done
	}
}

// TestMaintenance measures stores, finds damaged ones, and makes them smaller.
func TestMaintenance(t *testing.T) {
	answers := func(code int, last string, err error) func(context.Context, Task) (int, string, error) {
		return func(context.Context, Task) (int, string, error) { return code, last, err }
	}
	for name, test := range map[string]struct {
		task   func(ctx context.Context, task Task) (int, string, error)
		tasks  string // that are run
		stores string // that are left
		bytes  int64  // that they are known to take
		logs   string // a problem
	}{
		"measured":            {answers(0, "1234", nil), "check", "a", 1234, ""},
		"damaged":             {answers(1, "", nil), "check", "", 0, "exit code 1: "},
		"killed":              {answers(137, "", nil), "check", "a", 10_000_000, "exit code 137"},
		"terminated":          {answers(143, "", nil), "check", "a", 10_000_000, "exit code 143"},
		"lost":                {answers(jobenv.ExitLifelineLost, "", nil), "check", "a", 10_000_000, "exit code 74"},
		"not a number":        {answers(0, "many", nil), "check", "a", 10_000_000, "invalid syntax"},
		"no image":            {answers(0, "", errors.New("no such image")), "check", "a", 10_000_000, "no such image"},
		"in use":              {answers(0, "", engine.ErrInUse), "check", "a", 10_000_000, ""},
		"too long":            {func(ctx context.Context, _ Task) (int, string, error) { <-ctx.Done(); return 0, "", context.Cause(ctx) }, "check", "", 0, "it took longer than 30m0s"},
		"large, smaller":      {shrinksTo(24_000_000), "check, collect 20000000", "a", 24_000_000, ""},
		"as large as may be":  {answers(0, "25000000", nil), "check", "a", 25_000_000, ""},
		"large, just smaller": {shrinksTo(25_000_000), "check, collect 20000000", "a", 25_000_000, ""},
		"empty":               {answers(0, "0", nil), "check", "a", 0, ""},
		"large for good":      {shrinksTo(40_000_000), "check, collect 20000000", "", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, tasks, stop := maintained(t, test.task)
				f.lease("a").Return(t.Context(), 0)
				time.Sleep(taskTimeout + time.Minute)
				if got := strings.Join(tasks(), ", "); got != test.tasks {
					t.Errorf("tasks: %q, want %q", got, test.tasks)
				}
				if _, bytes := f.Size(); f.list() != test.stores || bytes != test.bytes {
					t.Errorf("stores: %q of %d bytes", f.list(), bytes)
				}
				stop()
				f.wantProblem(test.logs)
			})
		})
	}
}

// shrinksTo is the maintenance of a store of 40 MB.
func shrinksTo(after int64) func(context.Context, Task) (int, string, error) {
	return func(_ context.Context, task Task) (int, string, error) {
		if strings.HasPrefix(task.Work, jobenv.MaintenanceCollect) {
			return 0, fmt.Sprint(after), nil
		}
		return 0, "40000000", nil
	}
}

// TestMaintenanceGivesWay has a job want a store that is maintained, and one want another.
func TestMaintenanceGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, tasks, stop := maintained(t, func(ctx context.Context, _ Task) (int, string, error) {
			<-ctx.Done()
			time.Sleep(time.Second / 10)
			return 0, "", context.Cause(ctx)
		})
		f.use("a", 0)
		if len(tasks()) != 1 {
			t.Fatalf("tasks: %q", tasks())
		}
		begun := time.Now()
		f.lease("b").Return(t.Context(), 0)
		if took := time.Since(begun); took != 0 {
			t.Errorf("a job with another store has waited %s", took)
		}
		l := f.lease("a")
		if took := time.Since(begun); took != time.Second/10 {
			t.Errorf("a job with the same store has waited %s", took)
		}
		time.Sleep(time.Minute) // nobody maintains what a job has
		if len(tasks()) != 2 {
			t.Errorf("tasks: %q", tasks())
		}
		l.Return(t.Context(), 0)
		if e, _ := f.metadata.read(f.key("a").Name); e.Measured {
			t.Error("the store counts as maintained")
		}
		time.Sleep(time.Minute)
		stop()
		f.wantProblem("")
	})
}

// TestMaintenanceWithoutJobs removes a store with the engine's own commands, and has another one in use by another builder when
// its maintenance is due. No job follows. Within an hour the one is not counted any more, and the other is measured.
func TestMaintenanceWithoutJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		f, _, stop := maintained(t, func(_ context.Context, task Task) (int, string, error) {
			if time.Since(begun) < 10*time.Minute {
				return 0, "", engine.ErrInUse
			}
			return 0, "7", nil
		})
		f.use("a", 0)
		f.use("b", 0)
		if err := f.engine.Volumes().Remove(t.Context(), f.key("b").Name); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if n, bytes := f.Size(); n != 1 || bytes != 7 {
			t.Errorf("after an hour there are %d stores of %d bytes", n, bytes)
		}
		stop()
		f.wantProblem("")
	})
}

// TestMaintenanceAfterJob has a job use a store while another store is maintained: the maintenance of the first store keeps
// what the job has recorded.
func TestMaintenanceAfterJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.use("a", 0)
		f.use("b", 0)
		begun := time.Now()
		other := map[string]string{f.key("a").Name: "b", f.key("b").Name: "a"}
		used := "" // while the first store was maintained
		if _, err := f.maintainAll(t.Context(), func(_ context.Context, task Task) (int, string, error) {
			if used == "" {
				used = other[task.Volume.Name]
				time.Sleep(10 * time.Minute)
				f.use(used, 0)
			}
			return 0, "7", nil
		}); err != nil {
			t.Fatal(err)
		}
		if e, _ := f.metadata.read(f.key(used).Name); e.Used.Sub(begun) != 10*time.Minute || !e.Measured {
			t.Errorf("the store was used after %s, and measured: %t", e.Used.Sub(begun), e.Measured)
		}
	})
}

// TestRemovedBeforeMaintenance removes a store while another one is maintained: no task runs in it, which would create it
// again.
func TestRemovedBeforeMaintenance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.use("a", 0)
		f.use("b", 0)
		other := map[string]string{f.key("a").Name: f.key("b").Name, f.key("b").Name: f.key("a").Name}
		tasks := 0
		if _, err := f.maintainAll(t.Context(), func(ctx context.Context, task Task) (int, string, error) {
			tasks++
			return 0, "7", f.Remove(ctx, other[task.Volume.Name])
		}); err != nil || tasks != 1 {
			t.Errorf("%d tasks, %v", tasks, err)
		}
	})
}
