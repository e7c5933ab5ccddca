//go:build integration

package page

import (
	"slices"
	"testing"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/browser"
)

// TestPageRetry shows a job whose node is lost, and that runs once more: the progress and the tree are those of the
// second run, and the log has the parts of both.
func TestPageRetry(t *testing.T) {
	k := serveKept(t)
	r := history.Record{Job: "again", Command: "nix build"}
	l := k.begin(r)
	tell(l, schemas.PhaseEvent{Phase: schemas.Fetch}, "fetched on the first node")
	tell(l, schemas.PhaseEvent{Phase: schemas.Build}, "built on the first node")
	tell(l, schemas.PlanEvent{Derivations: []schemas.PlannedDerivation{{Derivation: store("snow")}, {Derivation: store("igloo"), Needs: []int{0}}}})
	tell(l, schemas.DerivationEvent{Derivation: store("snow"), State: schemas.DerivationBuilding})
	tell(l, schemas.ProgressEvent{Derivations: schemas.Counts{Expected: 2, Running: 1}})
	b := browser.OpenTab(t)
	b.Open(k.url + "/jobs/again")
	b.UntilText("#derivations-count", "2")
	b.UntilText("#numbers", "0 of 2 built")

	tell(l, schemas.RetryEvent{Node: "n1"})
	tell(l, schemas.PhaseEvent{Phase: schemas.Fetch}, "fetched on the second node")
	b.UntilText("#phases [aria-current=step]", "Fetch the source")
	if phases := browser.Eval[[]string](b, "[...document.querySelectorAll('#phases li')].map((item) => item.textContent)"); !slices.Equal(phases, []string{"Fetch the source"}) {
		t.Errorf("the phases of the second run are %q", phases)
	}
	if numbers := browser.Eval[string](b, "document.getElementById('numbers').textContent"); numbers != "" {
		t.Errorf("the second run begins with the numbers %q", numbers)
	}
	if !browser.Eval[bool](b, "document.getElementById('derivations').hidden") {
		t.Errorf("the second run begins with the tree %q", browser.Eval[[]string](b, treeText))
	}
	tell(l, schemas.PhaseEvent{Phase: schemas.Build}, "built on the second node")
	tell(l, schemas.PlanEvent{Derivations: []schemas.PlannedDerivation{{Derivation: store("igloo")}}})
	tell(l, schemas.DerivationEvent{Derivation: store("igloo"), State: schemas.DerivationBuilding})
	b.UntilText("#derivations-count", "(1)")
	b.UntilText("#rows", "built on the second node")
	rows := browser.Eval[[]string](b, `[...document.querySelectorAll("#rows > *")].map((row) => row.matches(".part") ? row.querySelector(".fold").firstChild.textContent : row.querySelector(".line").textContent)`)
	want := []string{"Fetch the source", "fetched on the first node", "Build", "built on the first node",
		"Fetch the source", "fetched on the second node", "Build", "built on the second node"}
	if !slices.Equal(rows, want) {
		t.Errorf("the log is %q", rows)
	}
	k.end(l, r, schemas.Exited(0))
	b.UntilText("#verdict", "succeeded")
	if tree := browser.Eval[[]string](b, treeText); !slices.Equal(tree, []string{"igloo ended"}) {
		t.Errorf("in the end, the tree is %q", tree)
	}
}

// TestPageOfJobNotKept shows a job that is no longer kept when the page asks how it has ended: the page says so.
func TestPageOfJobNotKept(t *testing.T) {
	k := serveKept(t)
	r := history.Record{Job: "gone", Command: "nix build"}
	l := k.begin(r)
	tell(l, schemas.PhaseEvent{Phase: schemas.Build}, "a line")
	b := browser.OpenTab(t)
	b.Open(k.url + "/jobs/gone")
	b.UntilText("#rows", "a line")
	r.End = jobend.Exited
	if err := k.records.Put(r); err != nil {
		t.Fatal(err)
	}
	if err := k.records.Prune(func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	b.Expect("404")
	l.Respond(schemas.Exited(0), schemas.VerdictEvent{End: string(jobend.Exited)})
	l.Complete()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b.UntilText("#status", "The job has ended")
}
