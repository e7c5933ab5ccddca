//go:build integration && long

package page

import (
	"fmt"
	"testing"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/browser"
)

// TestPageOfManyDerivations opens a job with the maximum number of listed derivations, while they are built. A real
// build would take too long, so the test makes the events up. The page and its HTTP server are the real ones.
func TestPageOfManyDerivations(t *testing.T) {
	const many, needs = 8192, 4
	k := serveKept(t)
	log := k.begin(history.Record{Job: "many", Command: "nix build", Begun: time.Now()})

	// Each derivation is needed by some later ones, as with packages.
	path := func(n int) string { return fmt.Sprintf("/nix/store/%032d-package-%d.drv", n, n) }
	all := make([]schemas.PlannedDerivation, many)
	for n := range all {
		all[n].Derivation = path(n)
		for i := range min(n, needs) {
			all[n].Needs = append(all[n].Needs, (n-1)*(i+needs)/(2*needs))
		}
	}
	const piece = 500
	for first := 0; first < many; first += piece {
		log.Event(schemas.PlanEvent{First: first, Derivations: all[first:min(first+piece, many)]})
	}

	b := browser.OpenTab(t)
	slower := b.Slower()
	b.Open(k.url + "/jobs/many")
	b.UntilText("#derivations-count", fmt.Sprint(many))
	const atOnce, built = 8, 6000
	for n := range built {
		log.Event(schemas.DerivationEvent{Derivation: path(n), State: schemas.DerivationBuilding})
		log.Event(schemas.DerivationEvent{Derivation: path(n), State: schemas.DerivationBuilding, Phase: "buildPhase"})
		if n >= atOnce {
			log.Event(schemas.DerivationEvent{Derivation: path(n - atOnce), State: schemas.DerivationBuilt})
		}
		if n%20 == 0 {
			b.AwaitDrawn() // takes two frames
		}
	}
	b.Until(fmt.Sprintf("document.querySelector('#derivations').textContent.includes('package-%d')", built-1))
	b.Until("document.querySelectorAll('.how.building').length === 8")
	longest := b.LongestTask()
	b.CheckAccess()
	b.LongestTask() // resets: that task was the test's
	log.Event(schemas.DerivationEvent{Derivation: path(built - 1), State: schemas.DerivationFailed, Log: []string{"\x1b[31mred\x1b[0m", "last"}})
	b.Until(treeText + "[0].startsWith('package-5999 failed')") // on top
	b.UntilText("#derivations pre .c1", "red")
	if n := browser.Eval[int](b, "document.querySelectorAll('#derivations li').length"); n < 8 || n > 100 {
		t.Errorf("%d items are shown", n)
	}
	if n := browser.Eval[int](b, "document.querySelectorAll('*').length"); n > 1000 {
		t.Errorf("%d elements are in the document", n)
	}
	for range 5 { // shows more items, up to a limit
		b.Click(".show")
	}
	b.Until("document.querySelector('.show').disabled")
	longest = max(longest, b.LongestTask())
	b.CheckAccess()
	t.Logf("longest task %.0f ms, %.1f times as slow as usual; the tree has %d items", longest, slower, browser.Eval[int](b, "document.querySelectorAll('#derivations li').length"))
	if longest > 200*slower && longest > 200*browser.OpenTab(t).Slower() {
		t.Errorf("a task took %.0f ms", longest)
	}
	log.Respond(schemas.Exited(1), schemas.VerdictEvent{End: string(jobend.Exited), Phases: []schemas.PhaseTime{}})
	log.Complete()
}

// TestPageOfFalseDerivations opens a job that has reported more derivations than any job builds. The page shows that
// there are more, and still reacts.
func TestPageOfFalseDerivations(t *testing.T) {
	const known, reported = 20_000, 100_000
	k := serveKept(t)
	log := k.begin(history.Record{Job: "false", Command: "nix build", Begun: time.Now()})
	path := func(n int) string { return fmt.Sprintf("/nix/store/%032d-package-%d.drv", n, n) }
	for n := range reported {
		log.Event(schemas.DerivationEvent{Derivation: path(n), State: schemas.DerivationBuilding})
	}
	b := browser.OpenTab(t)
	slower := b.Slower()
	b.Open(k.url + "/jobs/false")
	b.UntilText("#derivations-count", fmt.Sprintf("(more than %d)", known))
	b.LongestTask() // resets: the events came all at once
	log.Event(schemas.DerivationEvent{Derivation: path(0), State: schemas.DerivationFailed})
	log.Event(schemas.DerivationEvent{Derivation: path(reported - 1), State: schemas.DerivationFailed})
	b.Until(treeText + "[0].startsWith('package-0 failed')")
	if longest := b.LongestTask(); longest > 200*slower && longest > 200*browser.OpenTab(t).Slower() {
		t.Errorf("a task took %.0f ms", longest)
	}
	log.Respond(schemas.Exited(1), schemas.VerdictEvent{End: string(jobend.Exited), Phases: []schemas.PhaseTime{}})
	log.Complete()
}
