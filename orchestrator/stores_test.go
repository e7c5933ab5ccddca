package orchestrator

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/test/kit/fakeengine"
)

const (
	fillingStore  = "iglu: creating this job's Nix store from the image: "
	unusableStore = "iglu: the store is removed, and the job begins again with a fresh one"
	ownStore      = "iglu: the job begins again with the image's own Nix store, which is removed with the job"
	takenStore    = "iglu: other jobs have had this job's Nix store for 5m0s: this job begins with the image's own store, which is removed with the job"
	waitingStore  = "iglu: a job of another builder has this job's Nix store: waiting for it"
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

// TestUnusableStore has a job find the store of earlier ones unfit: it begins again with a fresh one.
func TestUnusableStore(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fixture) {
		if end := f.do("count 3"); len(end.said(fillingStore)) != 1 {
			t.Errorf("the first job: %s", end.lines)
		}
		if end := f.do("count 3"); end.said(fillingStore) != nil {
			t.Errorf("the second job: %s", end.lines)
		}
		end := f.do("unusable")
		end.wantExit(t, 3)
		if got := end.said(unusableStore, fillingStore); len(got) != 2 || strings.Count(end.lines, "\n1\n") != 1 {
			t.Errorf("with an unusable store: %s", end.lines)
		}
		if left := f.left(); left != "" {
			t.Errorf("left: %s", left)
		}
	})
}

// TestStoreFilledSlowly has Podman fill a store for minutes, while the job's builder and another one look for leftovers. None
// removes the job's container. The job's log has the time that it took.
func TestStoreFilledSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, fakeengine.Podman, nil)
		const takes = 14 * time.Minute
		f.engine.At(callAt("attach", "POST /containers/.*/attach", 1), func() { time.Sleep(takes) })
		other := &leftovers{builder: "other", isRunning: func(string) bool { return false }, seen: make(map[string]sighting)}
		job := f.send(requestOf("count 3"))
		for range takes / sweepInterval {
			time.Sleep(sweepInterval)
			f.b.local.sweep(t.Context())
			err := other.sweep(t.Context(), f.b.local.engine, func(id string) { t.Errorf("removed after %s", time.Since(job.begun)) })
			if err != nil {
				t.Error(err)
			}
		}
		end := job.finish()
		end.wantExit(t, 3)
		if line := "iglu: the store was filled in 840.0 s"; end.said(line) == nil {
			t.Errorf("without %q: %s", line, end.lines)
		}
		f.b.background.Wait()
	})
}

// TestStoreOfAnotherBuilder starts a container of another builder that uses the store. The job waits until that container
// is removed, as a leftover if its builder was killed. If that takes too long, the job runs without the store.
func TestStoreOfAnotherBuilder(t *testing.T) {
	for _, test := range []struct {
		name  string
		ends  time.Duration // after so long; the container is not removed
		takes time.Duration // at least, and not much longer
		said  string
	}{
		{"ended", 0, endedTime, fillingStore + waitingStore},
		{"ends in time", time.Minute, time.Minute + endedTime, fillingStore + waitingStore},
		{"for ever", time.Hour, 5 * time.Minute, fillingStore + waitingStore + takenStore},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(o *options) { o.Deadlines.Build = time.Hour }, func(t *testing.T, f *fixture) {
				f.engine.Run = func(p *fakeengine.Process) int {
					if p.Getenv(jobenv.Command) == "other" {
						select {
						case <-time.After(test.ends):
						case <-p.Killed:
						}
						return 0
					}
					return count(p, 3)
				}
				f.do("count 3").wantExit(t, 3)
				other := f.other()
				end := f.do("count 3")
				end.wantExit(t, 3)
				if got := strings.Join(end.said(waitingStore, takenStore), ""); fillingStore+got != test.said || strings.Count(end.lines, waitingStore) != 1 || end.took < test.takes || end.took > test.takes+10*time.Second {
					t.Errorf("after %s: %s", end.took, end.lines)
				}
				other()
			})
		})
	}
}

// other runs a container of another builder that uses the store, and that nobody removes. It returns a function that kills
// the container.
func (f *fixture) other() (kill func()) {
	f.t.Helper()
	there := f.engine.Left()
	store := there[slices.IndexFunc(there, func(name string) bool { return strings.Contains(name, "-store-") })]
	name := strings.Replace(store, "volume iglu-builder-test-store-", "iglu-store-test-", 1)
	c, err := f.b.local.engine.Create(f.t.Context(), engine.Spec{Name: name, Image: fakeengine.ImageRef, Labels: map[string]string{engine.LabelBuilder: "other", engine.LabelJob: "other"},
		Env: []string{jobenv.Command + "=other"}})
	if err != nil {
		f.t.Fatal(err)
	}
	stream, err := c.Start(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return func() {
		stream.Close()
		if err := c.Remove(f.t.Context()); err != nil {
			f.t.Error(err)
		}
	}
}

// unusableCalls are those of a job that finds its store unfit.
var unusableCalls = []fakeengine.Call{
	callAt("inspect store", "GET /volumes/.*-store-.*", 1),
	callAt("create", "POST /containers/create", 1),
	callAt("remove container", "DELETE /containers/.*", 1),
	callAt("remove store", "DELETE /volumes/.*", 1),
	callAt("inspect store again", "GET /volumes/.*-store-.*", 2),
	callAt("create store", "POST /volumes/create", 1),
	callAt("create again", "POST /containers/create", 2),
}

// TestFaultsOfUnusable lets every call fail that a job makes when its store is unusable: the job's command never runs in
// that store.
func TestFaultsOfUnusable(t *testing.T) {
	report := newReport(faults[:len(faults)-1])
	t.Run("all", func(t *testing.T) {
		for _, call := range unusableCalls {
			report.row(call.Name)
			for _, fault := range report.faults {
				t.Run(call.Name+"/"+string(fault), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) { report.note(call.Name, fault, breakUnusable(t, call, fault)) })
				})
			}
		}
	})
	report.want(t, "testdata/faults-unusable.txt")
}

func breakUnusable(t *testing.T, call fakeengine.Call, fault fakeengine.Fault) string {
	f := newFixture(t, fakeengine.Docker, nil)
	f.do("count 3").wantExit(t, 3)
	f.observed.take()
	hit := f.engine.Break(call, fault)
	end := f.do("unusable")
	if !hit() {
		t.Error("the call was not made")
	}
	outcome := f.outcome(end)
	if end.event.End == "exited" && end.said(fillingStore, ownStore) == nil && end.event.ExitCode != nil && *end.event.ExitCode == 3 {
		t.Errorf("the job has run in the unfit store: %s", end.lines)
	}
	f.engine.Return()
	f.wantNext()
	return outcome
}
