package stores

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/test/kit/memengine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// image takes 10 MB.
var image = engine.Image{ID: "sha256:1", Ref: "image", Platform: "linux/amd64", Size: 10_000_000}

// A fixture is a pool on an engine in memory, with room for two stores and a half.
type fixture struct {
	*Pool
	t      *testing.T
	engine *memengine.Engine
	logged *strings.Builder // what the first pool has logged
}

func newFixture(t *testing.T) *fixture {
	e, logged := memengine.New(nil), new(strings.Builder)
	p := newPool(t, e, t.TempDir())
	p.log = slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), logged), nil))
	return &fixture{p, t, e, logged}
}

// wantProblem checks that the pool has logged a problem, or none at all if problem is empty.
func (f *fixture) wantProblem(problem string) {
	f.t.Helper()
	for _, level := range []string{"level=WARN", "level=ERROR"} {
		if problem == "" && strings.Contains(f.logged.String(), level) {
			f.t.Errorf("its log has a problem:\n%s", f.logged)
		}
	}
	if !strings.Contains(f.logged.String(), problem) {
		f.t.Errorf("its log lacks %q:\n%s", problem, f.logged)
	}
}

func newPool(t *testing.T, e *memengine.Engine, folder string) *Pool {
	options := Options{Instance: "test", Mode: Repository, MaxBytes: 25_000_000, Folder: folder, Wait: time.Minute}
	return New(e, options, slog.New(slog.NewTextHandler(t.Output(), nil)))
}

// key returns that of a repository's store.
func (f *fixture) key(repository string) Key {
	f.t.Helper()
	key, ok, err := f.KeyOf(Job{Image: image, Repository: repository})
	if err != nil || !ok {
		f.t.Fatalf("the key of %s: %t, %v", repository, ok, err)
	}
	return key
}

func ignore(string) {}

// lease gives a job the store of a repository.
func (f *fixture) lease(repository string) *Lease {
	f.t.Helper()
	l, err := f.Lease(f.t.Context(), f.key(repository), ignore)
	if err == nil {
		err = l.Open(f.t.Context(), ignore)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return l
}

// use has a job use the store of a repository.
func (f *fixture) use(repository string, grown int64) {
	f.t.Helper()
	f.lease(repository).Return(f.t.Context(), grown)
	time.Sleep(time.Minute)
}

// list returns the repositories that have a store, the most recently used first.
func (f *fixture) list() string {
	f.t.Helper()
	all, err := f.List(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	var names []string
	for _, s := range all {
		names = append(names, s.Repository)
	}
	return strings.Join(names, " ")
}

// TestLease has two jobs of a repository, and one of another, want their stores.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		first := f.lease("a")
		if !first.Fresh() || first.State() != jobenv.StoreFresh || first.Volume().Labels[engine.LabelStore] != "a" {
			t.Errorf("the first job's store is %+v", first)
		}
		if other := f.lease("b"); !other.Fresh() || other.Container() == first.Container() {
			t.Errorf("another repository's store is %+v", other)
		}
		said := make(chan string, 1)
		begun := time.Now()
		time.AfterFunc(10*time.Second, func() { first.Return(t.Context(), 5) })
		second, err := f.Lease(t.Context(), f.key("a"), func(line string) { said <- line })
		if waited := time.Since(begun); err != nil || waited != 10*time.Second || <-said != "another job has this job's Nix store: waiting for it" {
			t.Fatalf("the second job has waited %s: %v", waited, err)
		}
		if err := second.Open(t.Context(), ignore); err != nil || second.Fresh() || second.State() != jobenv.StoreUsed || second.entry.Bytes != image.Size+5 {
			t.Errorf("the second job's store is %+v, %v", second, err)
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, ErrTaken)
		defer cancel()
		if _, err := f.Lease(ctx, f.key("a"), ignore); !errors.Is(err, ErrTaken) {
			t.Errorf("a third job, in vain: %v", err)
		}
		second.Return(t.Context(), 0)
		unlock, ok := f.tryLock(f.key("a").Name, nil)
		if !ok {
			t.Fatal("a store that nobody has or waits for cannot be maintained")
		}
		if _, ok := f.tryLock(f.key("a").Name, nil); ok {
			t.Error("two have the store")
		}
		unlock()
		f.lease("a").Return(t.Context(), 0)
	})
}

// TestLeaseInTurn leases one store to many jobs: they get it one at a time, in the order in which they asked, also if some
// have said that they wait and others not yet.
func TestLeaseInTurn(t *testing.T) {
	for _, between := range []time.Duration{time.Millisecond, longWait / 3} {
		synctest.Test(t, func(t *testing.T) {
			f := newFixture(t)
			var jobs sync.WaitGroup
			var order []int
			has := 0
			for n := range 50 {
				jobs.Go(func() {
					time.Sleep(time.Duration(n) * between)
					l := f.lease("a")
					if has++; has != 1 {
						t.Error("two jobs have the store")
					}
					time.Sleep(longWait / 2)
					has--
					order = append(order, n)
					l.Return(t.Context(), 0)
				})
			}
			jobs.Wait()
			if !slices.IsSorted(order) || len(order) != 50 {
				t.Errorf("every %s, in the order %v", between, order)
			}
			if len(f.locks) != 0 {
				t.Errorf("%d locks are left", len(f.locks))
			}
		})
	}
}

// TestMakeRoom uses stores of more repositories than the limit allows: the least recently used store is removed, unless it
// is in use.
func TestMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		for _, step := range []struct{ repository, want string }{{"a", "a"}, {"b", "b a"}, {"c", "c b"}, {"b", "b c"}, {"d", "d b"}} {
			f.use(step.repository, 1_000_000)
			if got := f.list(); got != step.want {
				t.Errorf("after %s, the stores are %s, want %s", step.repository, got, step.want)
			}
		}
		if n, bytes := f.Size(); n != 2 || bytes != 23_000_000 {
			t.Errorf("%d stores take %d bytes", n, bytes)
		}
		b := f.lease("b")
		d := f.lease("d")
		time.Sleep(time.Second)
		f.use("e", 0) // while jobs have both
		if got := f.list(); got != "e d b" {
			t.Errorf("with jobs in all, the stores are %s", got)
		}
		b.Return(t.Context(), 0)
		d.Return(t.Context(), 0)
		if got := f.list(); got != "d b" {
			t.Errorf("in the end, the stores are %s", got)
		}
	})
}

// TestUsedByAnotherBuilder has a container of another builder use a store: it is not removed.
func TestUsedByAnotherBuilder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.use("a", 0)
		a := f.key("a").Name
		container, err := f.engine.Create(t.Context(), engine.Spec{Name: containerName("test", a), Store: engine.Volume{Name: a},
			Labels: map[string]string{engine.LabelJob: "job"}})
		if err != nil {
			t.Fatal(err)
		}
		f.use("b", 0)
		f.use("c", 0)
		f.use("d", 0)
		if got := f.list(); got != "d a" {
			t.Errorf("the stores are %s", got)
		}
		all, _ := f.List(t.Context())
		if all[1].Job != "job" || all[0].Job != "" {
			t.Errorf("the stores are %+v", all)
		}
		if err := f.Remove(t.Context(), a); !errors.Is(err, engine.ErrInUse) {
			t.Errorf("a store in use can be removed: %v", err)
		}
		time.AfterFunc(time.Second, func() { container.Remove(t.Context()) })
		if err := f.Remove(t.Context(), a); err != nil {
			t.Errorf("it cannot be removed when its job has ended: %v", err)
		}
		if got := f.list(); got != "d" {
			t.Errorf("the stores are %s", got)
		}
	})
}

// TestDiscard has a job find its store unusable: it opens a new one.
func TestDiscard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.use("a", 5)
		l := f.lease("a")
		if err := errors.Join(l.Discard(t.Context()), l.Open(t.Context(), ignore)); err != nil || !l.Fresh() || l.entry.Bytes != image.Size {
			t.Errorf("the store is %+v, %v", l, err)
		}
		l.Return(t.Context(), 0)
	})
}

// TestLostFolder removes the folder of a builder: the builder finds the stores by their labels, and measures each once.
// Metadata of stores that do not exist any more is removed.
func TestLostFolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.use("a", 0)
		f.use("b", 0)
		var tasks []string
		f.Pool = newPool(t, f.engine, t.TempDir())
		if err := f.metadata.write("gone", entry{Bytes: 1 << 40}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		f.Maintain(ctx, func(_ context.Context, task Task) (int, string, error) {
			tasks = append(tasks, task.Work+" "+task.ImageID)
			return 0, "7", nil
		})
		if got := strings.Join(tasks, ", "); got != "check sha256:1, check sha256:1" {
			t.Errorf("tasks: %s", got)
		}
		if n, bytes := f.Size(); n != 2 || bytes != 14 {
			t.Errorf("%d stores take %d bytes", n, bytes)
		}
	})
}

// TestWrongClock has a job use a store while the clock is wrong by ten years: the store is maintained all the same, and
// does not count as used in the future.
func TestWrongClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.use("a", 0)
		name := f.key("a").Name
		e, _ := f.metadata.read(name)
		e.Used = e.Used.AddDate(10, 0, 0)
		if err := f.metadata.write(name, e); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		tasks := 0
		f.Maintain(ctx, func(context.Context, Task) (int, string, error) {
			tasks++
			return 0, "7", nil
		})
		if e, _ := f.metadata.read(name); tasks != 1 || !e.Measured || e.Used.After(time.Now()) {
			t.Errorf("%d tasks, %+v", tasks, e)
		}
	})
}

// TestOutdatedStores uses stores of a version whose jobs were root. A container uses one of them. No job gets one, and
// maintenance removes them, with a line for each.
func TestOutdatedStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		f := newFixture(t)
		f.Pool.log = slog.New(slog.NewTextHandler(&log, nil))
		f.use("a", 0)
		old := func(repository string) engine.Volume {
			digest := sha256.Sum256([]byte(strings.Join([]string{repository, image.ID, image.Platform}, "\n")))
			return engine.Volume{Name: volumeName("test", hex.EncodeToString(digest[:10])),
				Labels: map[string]string{engine.LabelStore: repository, labelImage: image.Ref, labelImageID: image.ID}}
		}
		for _, repository := range []string{"a", "b"} {
			for _, user := range []string{"nix", "root"} {
				if key, _, err := f.KeyOf(Job{Image: image, Repository: repository, User: user}); err != nil || key.Name == old(repository).Name {
					t.Errorf("a job of %s has the store of the old version: %v", user, err)
				}
			}
			if err := errors.Join(f.engine.Volumes().Create(t.Context(), old(repository)), f.metadata.write(old(repository).Name, entry{Repository: repository, Bytes: 1})); err != nil {
				t.Fatal(err)
			}
		}
		container, err := f.engine.Create(t.Context(), engine.Spec{Name: "other", Store: old("b")})
		if err != nil {
			t.Fatal(err)
		}
		maintain := func() {
			if _, err := f.maintainAll(t.Context(), func(context.Context, Task) (int, string, error) { return 0, "7", nil }); err != nil {
				t.Fatal(err)
			}
		}
		maintain()
		if got := f.list(); got != "a b" {
			t.Errorf("stores are left of %q, want a's, and b's old one", got)
		}
		if err := container.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		maintain()
		if n, _ := f.Size(); f.list() != "a" || n != 1 {
			t.Errorf("stores are left of %q, and metadata of %d", f.list(), n)
		}
		for _, repository := range []string{"a", "b"} {
			line := `level=INFO msg="removed a store of an earlier version: it does not say whether its jobs were root" store=` +
				old(repository).Name + " repository=" + repository + "\n"
			if strings.Count(log.String(), line) != 1 {
				t.Errorf("the log has not once %s: %s", line, &log)
			}
		}
	})
}

// TestKeyOf compares jobs that differ in one property: only jobs that trust the same keys, and have the same tokens, share
// a store.
func TestKeyOf(t *testing.T) {
	base := Job{Image: image, Repository: "a", User: "nix", Keys: []string{"k1", "k2"}, Unsigned: []string{"u"}, Operator: []string{"o"}}
	for name, test := range map[string]struct {
		change func(*Job)
		same   bool
	}{
		"nothing":              {func(*Job) {}, true},
		"order of keys":        {func(j *Job) { j.Keys = []string{"k2", "k1", "k2"} }, true},
		"branch":               {func(j *Job) { j.Branch = "side" }, true},
		"image's name":         {func(j *Job) { j.Image.Ref = "other" }, true},
		"image":                {func(j *Job) { j.Image.ID = "sha256:2" }, false},
		"platform":             {func(j *Job) { j.Image.Platform = "linux/arm64" }, false},
		"repository":           {func(j *Job) { j.Repository = "b" }, false},
		"user":                 {func(j *Job) { j.User = "root" }, false},
		"keys":                 {func(j *Job) { j.Keys = j.Keys[:1] }, false},
		"unsigned":             {func(j *Job) { j.Unsigned = nil }, false},
		"operator":             {func(j *Job) { j.Operator = nil }, false},
		"flakes":               {func(j *Job) { j.Flakes = true }, false},
		"pushes":               {func(j *Job) { j.Pushes = []string{"key"} }, false},
		"reads":                {func(j *Job) { j.Reads = []string{"key"} }, false},
		"pushes, and is empty": {func(j *Job) { j.Pushes = []string{} }, false},
	} {
		f := newFixture(t)
		one, ok1, err1 := f.KeyOf(base)
		job := base
		test.change(&job)
		other, ok2, err2 := f.KeyOf(job)
		if err := errors.Join(err1, err2); err != nil || !ok1 || !ok2 {
			t.Fatalf("%s: %v", name, err)
		}
		if (one.Name == other.Name) != test.same || !strings.HasPrefix(one.Name, "iglu-builder-test-store-") {
			t.Errorf("%s: %s and %s", name, one.Name, other.Name)
		}
	}
	flakes := func(branch string) string {
		key, _, _ := newFixture(t).KeyOf(Job{Image: image, Repository: "a", Flakes: true, Branch: branch})
		return key.Name
	}
	if main := flakes("main"); main == flakes("side") || main != flakes("main") {
		t.Error("where flakes count, branches share a store, or one has two")
	}
}

// TestModes has a job with a repository and one without, in each mode.
func TestModes(t *testing.T) {
	for mode, want := range map[Mode]string{Ephemeral: "false false", Repository: "true false", Shared: "true true"} {
		f := newFixture(t)
		f.options.Mode = mode
		with, ok1, _ := f.KeyOf(Job{Image: image, Repository: "a"})
		without, ok2, _ := f.KeyOf(Job{Image: image})
		if got := fmt.Sprint(ok1, ok2); got != want {
			t.Errorf("%s: %s, want %s", mode, got, want)
		}
		if mode == Shared && with != without {
			t.Errorf("shared: %+v and %+v", with, without)
		}
	}
}

// TestSecretOfPool compares the names that two pools with separate folders give to the store of a job that pushes: without
// the secret, nobody can check a key with the name.
func TestSecretOfPool(t *testing.T) {
	job := Job{Image: image, Repository: "a", Pushes: []string{"key"}}
	one, other := newFixture(t), newFixture(t)
	first, _, err := one.KeyOf(job)
	again, _, _ := one.KeyOf(job)
	foreign, _, _ := other.KeyOf(job)
	if err != nil || first.Name != again.Name || first.Name == foreign.Name {
		t.Errorf("%s, %s, and %s of another secret; %v", first.Name, again.Name, foreign.Name, err)
	}
	if err := os.WriteFile(filepath.Join(one.options.Folder, secretFile), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := one.KeyOf(job); err == nil || !strings.Contains(err.Error(), "is damaged: remove it") {
		t.Errorf("with a damaged secret: %v", err)
	}
	for _, private := range []Job{{Image: image, Repository: "a", Reads: []string{"key"}}, job} {
		if _, ok, err := one.KeyOf(private); ok || err == nil {
			t.Errorf("with a damaged secret: %t, %v", ok, err)
		}
	}
}

// TestRoomForTwo uses stores that have exactly the largest size, and one byte more: as few as possible are removed, also
// if one is in use, or cannot be removed.
func TestRoomForTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.use("a", 2_500_000)
		f.use("b", 2_500_000)
		if got := f.list(); got != "b a" {
			t.Errorf("with just enough room: %s", got)
		}
		f.use("c", 0) // 22.5 MB with one of them
		if got := f.list(); got != "c b" {
			t.Errorf("with one more: %s", got)
		}
		refuse := true
		f.engine.Fail = func(call string) error {
			if call == "Volumes.Remove" && refuse {
				refuse = false
				return errors.New("no")
			}
			return nil
		}
		f.use("d", 0) // b cannot be removed at first, and then c is
		if got := f.list(); refuse || strings.Count(got, " ") > 1 || !strings.HasPrefix(got, "d ") {
			t.Errorf("after a removal that failed: %s", got)
		}
	})
}

// TestSharedStore checks that the store of all jobs is listed without a repository, also by a builder that has lost its
// folder.
func TestSharedStore(t *testing.T) {
	f := newFixture(t)
	f.options.Mode = Shared
	l, err := f.Lease(t.Context(), f.key("a"), ignore)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Open(t.Context(), ignore); err != nil {
		t.Fatal(err)
	}
	l.Return(t.Context(), 0)
	for range 2 {
		all, err := f.List(t.Context())
		if err != nil || len(all) != 1 || all[0].Repository != "" || all[0].Image != "image" {
			t.Errorf("stores %+v, %v", all, err)
		}
		f.Pool = newPool(t, f.engine, t.TempDir())
	}
}
