//go:build integration && long

package page

import (
	"fmt"
	"testing"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/test/kit/browser"
)

// TestManyUnended looks at the page of a builder with more running and waiting jobs than the page lists. The page does
// not take them for news, and does not load itself again and again.
func TestManyUnended(t *testing.T) {
	k := serveKept(t)
	const listed = 1000
	now := time.Now()
	for n := range listed + 5 {
		r := history.Record{Job: fmt.Sprintf("job%04d", n), Command: "nix build", Begun: now.Add(time.Duration(n-2*listed) * time.Second)}
		if n%100 == 0 {
			r.Started = r.Begun
		}
		if err := k.records.Put(r); err != nil {
			t.Fatal(err)
		}
	}
	b := browser.OpenTab(t)
	b.Open(k.url + "/")
	if n := browser.Eval[int](b, "document.querySelectorAll('#running a').length"); n != listed {
		t.Errorf("%d jobs are listed", n)
	}
	browser.Eval[bool](b, "window.isFirst = true")
	afterChecks(b)
	if !browser.Eval[bool](b, "Boolean(window.isFirst)") {
		t.Error("the page was loaded again")
	}
	if err := k.records.Put(history.Record{Job: "last", Command: "nix build .#last", Begun: now}); err != nil {
		t.Fatal(err)
	}
	b.UntilText("#running", "nix build .#last")
}
