package stores

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/orchestrator/engine"
)

// TestRoomBeforeCreation has a job's store be created when the others leave no room for it: room is made before the job
// fills the store.
func TestRoomBeforeCreation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.use("a", 0)
		f.use("b", 0)
		l := f.lease("c")
		if got := f.list(); got != "c b" {
			t.Errorf("while the job runs, the stores are %s", got)
		}
		l.Return(t.Context(), 0)
		f.wantProblem("")
	})
}

// TestMuchRoom has little room be left: as many stores are removed as necessary, but not one that is in use, and not the
// one to keep, even if others were used later. Without one to keep, the last one stays.
func TestMuchRoom(t *testing.T) {
	for name, test := range map[string]struct {
		room       int64
		keep, want string
		inUse      string
	}{
		"for two":             {25_000_000, "", "d c", ""},
		"for one":             {15_000_000, "", "d", ""},
		"for none":            {0, "", "d", ""},
		"for the first":       {0, "a", "a", ""},
		"for the second":      {0, "b", "b", ""},
		"the first is in use": {15_000_000, "", "d a", "a"},
		"all there is":        {40_000_000, "", "d c b a", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.options.MaxBytes = 1 << 40
				for _, repository := range []string{"a", "b", "c", "d"} {
					f.use(repository, 0)
				}
				keep, of := "", entry{}
				if test.keep != "" {
					keep = f.key(test.keep).Name
					of, _ = f.metadata.read(keep)
				}
				if test.inUse != "" {
					unlock, ok := f.tryLock(f.key(test.inUse).Name, nil)
					if !ok {
						t.Fatal("it is locked")
					}
					defer unlock()
				}
				f.options.MaxBytes = test.room
				if err := f.makeRoom(t.Context(), keep, of); err != nil || f.list() != test.want {
					t.Errorf("%v, the stores are %s, want %s", err, f.list(), test.want)
				}
			})
		})
	}
}

// TestReturnFails has a job give its store back when the disk of the builder's folder fails: the log says so, and the next
// job gets the store.
func TestReturnFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		l := f.lease("a")
		if err := errors.Join(os.RemoveAll(f.options.Folder), os.WriteFile(f.options.Folder, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		l.Return(t.Context(), 0)
		f.wantProblem("cannot give a job's store back")
		if _, ok := f.tryLock(l.key.Name, nil); !ok {
			t.Error("the store is locked")
		}
	})
}

// TestIdleTime begins a store's maintenance as soon as the store was unused for so long.
func TestIdleTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, tasks, stop := maintained(t, func(context.Context, Task) (int, string, error) { return 0, "7", nil })
		f.lease("a").Return(t.Context(), 0)
		time.Sleep(idleTime - 1)
		before := len(tasks())
		time.Sleep(2 * time.Nanosecond)
		if after := len(tasks()); before != 0 || after != 1 {
			t.Errorf("%d tasks before, and %d after", before, after)
		}
		stop()
		f.wantProblem("")
	})
}

// TestMaintenanceStops stops the maintenance while a task runs, and while there is no room: neither is a problem.
func TestMaintenanceStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, tasks, stop := maintained(t, func(ctx context.Context, _ Task) (int, string, error) {
			<-ctx.Done()
			return 0, "", context.Cause(ctx)
		})
		f.lease("a").Return(t.Context(), 0)
		f.options.MaxBytes = 0
		time.Sleep(2 * idleTime)
		stop()
		if n := len(tasks()); n != 1 {
			t.Errorf("%d tasks", n)
		}
		f.wantProblem("")
	})
}

// TestMaintenanceGoesOn has a job want a store that is maintained, and then not use it: because it was cancelled while it
// waited, or could not begin. The store is maintained after that.
func TestMaintenanceGoesOn(t *testing.T) {
	for name, want := range map[string]func(f *fixture){
		"cancelled": func(f *fixture) {
			ctx, cancel := context.WithTimeout(f.t.Context(), time.Second/20) // it still waits
			defer cancel()
			if _, err := f.Lease(ctx, f.key("a"), ignore); !errors.Is(err, context.DeadlineExceeded) {
				f.t.Errorf("it waits until %v", err)
			}
		},
		"failed": func(f *fixture) { f.lease("a").Release() },
	} {
		synctest.Test(t, func(t *testing.T) {
			interrupted := false
			f, tasks, stop := maintained(t, func(ctx context.Context, _ Task) (int, string, error) {
				if interrupted {
					return 0, "7", nil
				}
				<-ctx.Done()
				interrupted = true
				time.Sleep(time.Second / 10)
				return 0, "", context.Cause(ctx)
			})
			f.use("a", 0)
			want(f)
			time.Sleep(time.Minute)
			if e, _ := f.metadata.read(f.key("a").Name); len(tasks()) != 2 || !e.Measured {
				t.Errorf("%s: %d tasks, %+v", name, len(tasks()), e)
			}
			stop()
			f.wantProblem("")
		})
	}
}

// TestMaintenanceWaitsForEngine has an engine not answer when stores are to be maintained. They are, soon after it answers
// again, also if there is no further job. Only the first failure is logged.
func TestMaintenanceWaitsForEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, tasks, stop := maintained(t, func(context.Context, Task) (int, string, error) { return 0, "7", nil })
		var away atomic.Bool
		f.engine.Fail = func(string) error {
			if away.Load() {
				return errors.New("away")
			}
			return nil
		}
		f.lease("a").Return(t.Context(), 0)
		away.Store(true)
		time.Sleep(10 * awayInterval)
		if n := len(tasks()); n != 0 {
			t.Errorf("%d tasks while it does not", n)
		}
		away.Store(false)
		time.Sleep(awayInterval)
		if n := len(tasks()); n != 1 {
			t.Errorf("%d tasks when it answers again", n)
		}
		stop()
		if n := strings.Count(f.logged.String(), "level=WARN"); n != 1 {
			t.Errorf("its log has %d warnings:\n%s", n, f.logged)
		}
	})
}

// TestOutdatedAmongOthers removes a store of an earlier version: what is known of the others stays.
func TestOutdatedAmongOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.options.MaxBytes = 1 << 40
		for n := range 5 {
			f.use(fmt.Sprint(n), int64(n))
		}
		for n := range 20 { // as the order in which the engine lists them differs
			if err := f.engine.Volumes().Create(t.Context(), engine.Volume{Name: fmt.Sprint("old", n), Labels: map[string]string{engine.LabelStore: "old"}}); err != nil {
				t.Fatal(err)
			}
			if entries, err := f.reconcile(t.Context()); err != nil || len(entries) != 5 {
				t.Fatalf("%d stores are known, %v", len(entries), err)
			}
		}
		if n, bytes := f.Size(); n != 5 || bytes != 5*image.Size+1+2+3+4 {
			t.Errorf("%d stores of %d bytes", n, bytes)
		}
	})
}
