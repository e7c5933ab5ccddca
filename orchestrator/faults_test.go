package orchestrator

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/images"
	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/test/kit/fakeengine"
)

var update = flag.Bool("update", false, "write the golden files anew")

// A brokenCall is a call of the engine that fails, and the job that makes it.
type brokenCall struct {
	fakeengine.Call
	life
}

// A life is a job, with the calls that it makes.
type life struct {
	command string
	change  func(*options) // of the builder, if any
	cancels bool           // somebody cancels it when it runs
}

// callsOf returns the calls of a life.
func callsOf(l life, calls ...fakeengine.Call) (all []brokenCall) {
	for _, c := range calls {
		all = append(all, brokenCall{c, l})
	}
	return all
}

var callAt = fakeengine.CallAt

// A job makes these calls first: they ask about the engine, its image and its store.
var firstCalls = slices.Concat(
	callsOf(life{command: "count 3"},
		callAt("ping", "HEAD /_ping", 1),
		callAt("inspect image", "GET /images/.*/json", 1),
		callAt("ask for machine", "GET /info", 1),
		callAt("ask for version", "GET /version", 1),
		callAt("inspect store", "GET /volumes/.*-store-.*", 1),
		callAt("create store", "POST /volumes/create", 1),
	),
	callsOf(life{command: "count 3", change: func(o *options) { o.engine.Pull = images.PullAlways }},
		callAt("pull", "POST /images/create", 1),
		callAt("inspect pulled image", "GET /images/.*/json", 2),
	),
	callsOf(life{command: "count 3", change: func(o *options) { o.engine.Network = "bridge" }}, callAt("inspect network", "GET /networks/bridge", 1)),
)

// The first job of an instance creates its network, and the volume with the builder's program.
var creatingCalls = callsOf(life{command: "count 3"},
	callAt("list networks", "GET /networks", 1),
	callAt("lock network", "POST /containers/create", 1),
	callAt("list networks again", "GET /networks", 2),
	callAt("create network", "POST /networks/create", 1),
	callAt("list new network", "GET /networks", 3),
	callAt("unlock network", "DELETE /containers/.*", 1),
	callAt("lock volume", "POST /containers/create", 2),
	callAt("create volume", "POST /volumes/create", 2),
	callAt("create filler", "POST /containers/create", 3),
	callAt("look into volume", "HEAD /containers/.*/archive", 1),
	callAt("fill volume", "PUT /containers/.*/archive", 1),
	callAt("remove filler", "DELETE /containers/.*", 2),
	callAt("unlock volume", "DELETE /containers/.*", 3),
)

// These calls are about the job's container.
var containerCalls = slices.Concat(
	callsOf(life{command: "count 3"},
		callAt("create", "POST /containers/create", 4),
		callAt("attach", "POST /containers/.*/attach", 1),
		callAt("wait", "POST /containers/.*/wait", 1),
		callAt("start", "POST /containers/.*/start", 1),
		callAt("remove", "DELETE /containers/.*", 4),
	),
	callsOf(life{command: "memory"}, callAt("inspect", "GET /containers/[0-9a-f]+/json", 1)),
	callsOf(life{command: "linger", cancels: true}, callAt("stop", "POST /containers/.*/stop", 1)),
)

// faults are the ways in which each call fails.
var faults = []fakeengine.Fault{fakeengine.Slow, fakeengine.Stall, fakeengine.Gone, fakeengine.Reset, fakeengine.Lost, fakeengine.Cut,
	fakeengine.Garbage, "404", "409", "500", cancel}

// cancel is no fault of the engine: the job's client goes away just then.
const cancel = fakeengine.Fault("cancel")

// faultsOf are those of an engine's calls: what the engine itself has no part in is the same on all.
func faultsOf(recording string) []fakeengine.Fault {
	if recording == fakeengine.Podman {
		return []fakeengine.Fault{fakeengine.Gone, fakeengine.Lost, fakeengine.Cut, "500", cancel}
	}
	return faults
}

// The TestFaults let every call of a job fail in every way. The golden files have the results: how the job ended, the
// message for its client, what is left on the engine, and which calls are counted as failed. Each time, the next job
// works, and leaves nothing on the engine.

func TestFaultsOfFirstCalls(t *testing.T) { breakEach(t, firstCalls, "first") }
func TestFaultsOfCreating(t *testing.T)   { breakEach(t, creatingCalls, "creating") }
func TestFaultsOfContainer(t *testing.T)  { breakEach(t, containerCalls, "container") }

// breakEach breaks calls on each engine, and compares the results with a golden file of the engine.
func breakEach(t *testing.T, calls []brokenCall, golden string) {
	for _, recording := range recordings {
		t.Run(recording, func(t *testing.T) {
			report := newReport(faultsOf(recording))
			t.Run("all", func(t *testing.T) {
				for _, call := range calls {
					report.row(call.Name)
					for _, fault := range report.faults {
						t.Run(call.Name+"/"+string(fault), func(t *testing.T) {
							t.Parallel()
							synctest.Test(t, func(t *testing.T) { report.note(call.Name, fault, call.breaks(t, recording, fault)) })
						})
					}
				}
			})
			report.want(t, "testdata/faults-"+golden+"-"+recording+".txt")
		})
	}
}

func (call brokenCall) breaks(t *testing.T, recording string, fault fakeengine.Fault) string {
	f := newFixture(t, recording, call.change)
	var j *job
	var hit func() bool
	if fault == cancel {
		hit = f.engine.At(call.Call, func() {
			j.cancel(jobend.ClientGone)
			time.Sleep(time.Second) // so that the call is not answered before
		})
	} else {
		hit = f.engine.Break(call.Call, fault)
	}
	j = f.newJob()
	f.begin(j, requestOf(call.command))
	if call.cancels {
		j.waitFor(t, "lingering")
		f.b.Cancel(f.records.latest())
	}
	end := j.finish()
	f.b.background.Wait()
	synctest.Wait() // a container whose removal failed has ended, too
	if !hit() {
		t.Error("the call was not made")
	}
	outcome := f.outcome(end)
	f.engine.Return()
	f.wantNext()
	return outcome
}

// outcome returns the result of a job, for a report.
func (f *fixture) outcome(end finished) string {
	var text strings.Builder
	fmt.Fprint(&text, end)
	if left := f.left(); left != "" {
		fmt.Fprintf(&text, "\n\tleft: %s", left)
	}
	if failed := f.observed.take(); len(failed) > 0 {
		slices.Sort(failed) // some are counted when nobody waits any more
		fmt.Fprintf(&text, "\n\tcounted: %s", strings.Join(failed, ", "))
	}
	for line := range strings.Lines(end.lines) {
		if strings.Contains(line, "the end of the log") || strings.Contains(line, "using the copy on the engine") {
			fmt.Fprintf(&text, "\n\t%s", strings.TrimSpace(line))
		}
	}
	return plain(text.String())
}

// wantNext checks that a job works, and that nothing is left when whoever sweeps has had the time.
func (f *fixture) wantNext() {
	f.t.Helper()
	f.do("count 3").wantExit(f.t, 3)
	for range 2 {
		f.b.local.sweep(f.t.Context())
		time.Sleep(createdTime)
	}
	f.b.local.sweep(f.t.Context())
	var odd []string
	for _, thing := range f.engine.Left() {
		if thing = plain(thing); !slices.Contains(usual, thing) {
			odd = append(odd, thing)
		}
	}
	if len(odd) > 0 {
		f.t.Errorf("after the next job, there is: %q", odd)
	}
}

// A report has a paragraph for each call, and in that an outcome for each fault.
type report struct {
	faults []fakeengine.Fault

	mu    sync.Mutex
	rows  []string
	cells map[[2]string]string
}

func newReport(faults []fakeengine.Fault) *report {
	return &report{faults: faults, cells: make(map[[2]string]string)}
}

func (r *report) row(name string) { r.rows = append(r.rows, name) }

func (r *report) note(row string, fault fakeengine.Fault, outcome string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cells[[2]string{row, string(fault)}] = outcome
}

func (r *report) text() string {
	var text strings.Builder
	for _, row := range r.rows {
		fmt.Fprintf(&text, "%s\n", row)
		for _, fault := range r.faults {
			fmt.Fprintf(&text, "    %-8s%s\n", fault, strings.ReplaceAll(r.cells[[2]string{row, string(fault)}], "\n\t", "\n            "))
		}
	}
	return text.String()
}

// want compares the report with a golden file.
func (r *report) want(t *testing.T, file string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(r.text()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	golden, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(golden), "\n"), strings.Split(r.text(), "\n")); diff != "" {
		t.Errorf("(-%s +now):\n%s", file, diff)
	}
}
