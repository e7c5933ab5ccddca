package orchestrator

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"iglu.sh/builder/test/kit/fakeengine"
)

// startCalls are all that a builder makes before it takes jobs, where an earlier life has left
// something of each kind.
var startCalls = []fakeengine.Call{
	callAt("ping", "HEAD /_ping", 1),
	callAt("list containers", "GET /containers/json", 1),
	callAt("remove container", "DELETE /containers/.*", 1),
	callAt("list containers again", "GET /containers/json", 2),
	callAt("list volumes", "GET /volumes", 1),
	callAt("remove volume", "DELETE /volumes/.*", 1),
	callAt("list networks", "GET /networks", 1),
	callAt("remove network", "DELETE /networks/.*", 1),
	callAt("ask for machine", "GET /info", 1),
	callAt("ask for version", "GET /version", 1),
}

// TestFaultsOfStart has every call of a builder's start go wrong in every way. The golden file says
// what could not be removed and why, and what is left for the next start after the first job, which
// works each time.
func TestFaultsOfStart(t *testing.T) {
	report := newReport(slices.DeleteFunc(slices.Clone(faults), func(f fakeengine.Fault) bool { return f == cancel }))
	t.Run("all", func(t *testing.T) {
		for _, call := range startCalls {
			report.row(call.Name)
			for _, fault := range report.faults {
				t.Run(call.Name+"/"+string(fault), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) { report.note(call.Name, fault, breakStart(t, call, fault)) })
				})
			}
		}
	})
	report.want(t, "testdata/faults-start.txt")
}

func breakStart(t *testing.T, call fakeengine.Call, fault fakeengine.Fault) string {
	f := newFixture(t, fakeengine.Docker, nil)
	others := f.litter("somebody-else")
	f.litter("test")
	hit := f.engine.Break(call, fault)
	var removed []string
	err := f.b.Clean(t.Context(), func(kind, _ string) { removed = append(removed, kind) })
	checked := f.b.Check(t.Context())
	if !hit() {
		t.Error("the call was not made")
	}
	text := "removed: " + strings.Join(removed, ", ")
	if err != nil {
		text += "\n\t" + strings.ReplaceAll(fmt.Sprint("error: ", err), "\n", "\n\t")
	}
	if checked != nil {
		t.Errorf("the engine cannot do: %v", checked)
	}
	f.engine.Return()
	f.do("count 3").wantExit(t, 3)
	there := f.engine.Left()
	for _, name := range others {
		if !slices.Contains(there, name) {
			t.Errorf("of somebody else, %s is gone", name)
		}
	}
	var left []string
	for _, thing := range there {
		if strings.HasSuffix(strings.TrimSuffix(thing, " created"), " of-test") {
			left = append(left, thing)
		}
	}
	if len(left) > 0 {
		text += "\n\tleft: " + strings.Join(left, ", ")
	}
	if strings.Contains(text, "container of-test") {
		t.Error("the container is still there after the first job")
	}
	return plain(text)
}

// litter makes one of each kind for an instance, and returns their names.
func (f *fixture) litter(instance string) []string {
	labels := map[string]string{labelInstance: instance}
	f.engine.MakeContainer("of-"+instance, labels)
	f.engine.MakeVolume("of-"+instance, labels)
	f.engine.MakeNetwork("of-"+instance, labels)
	return []string{"container of-" + instance + " created", "volume of-" + instance, "network of-" + instance}
}

// TestCleanKeepsStores has a builder start anew where there is a store.
func TestCleanKeepsStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, fakeengine.Docker, nil)
		f.do("count 3").wantExit(t, 3)
		f.restart()
		var removed []string
		if err := f.b.Clean(t.Context(), func(kind, _ string) { removed = append(removed, kind) }); err != nil {
			t.Error(err)
		}
		if got, want := f.left(), "no network jobs, no volume program"; got != want || fmt.Sprint(removed) != "[volume network]" {
			t.Errorf("%s, and removed %v", got, removed)
		}
	})
}
