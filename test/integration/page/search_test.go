//go:build integration

package page

import (
	"fmt"
	"testing"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/browser"
)

// TestSearchFailsOnce loses the connection for the first search. It is repeated, and shows what it finds.
func TestSearchFailsOnce(t *testing.T) {
	k := serveKept(t)
	r := history.Record{Job: "once", Command: "nix build"}
	l := k.begin(r)
	tell(l, schemas.PhaseEvent{Phase: schemas.Build}, "one", "two")
	k.end(l, r, schemas.Exited(1))
	b := browser.OpenTab(t)
	b.Open(k.url + "/jobs/once")
	browser.Eval[any](b, `{
		const real = fetch;
		window.fetch = (url, options) => {
			if (!String(url).includes("/search?")) return real(url, options);
			window.fetch = real;
			return Promise.reject(new TypeError("network error"));
		};
	}`)
	b.Write("#query", "two")
	b.UntilText("#found", "The search failed")
	b.Until(`document.querySelector('.row.current mark')?.textContent === "two"`)
	b.UntilText("#found", "1 of 1")
}

// TestSearchMarks searches lines with letters whose small form is longer, and for a text that is special in regular
// expressions: exactly what was searched is marked.
func TestSearchMarks(t *testing.T) {
	k := serveKept(t)
	r := history.Record{Job: "letters", Command: "nix build"}
	l := k.begin(r)
	tell(l, schemas.PhaseEvent{Phase: schemas.Build}, "İİİ: an Error in İstanbul", `C:\a[0]/(b)-{c}|d.*+?^$`)
	k.end(l, r, schemas.Exited(1))
	b := browser.OpenTab(t)
	b.Open(k.url + "/jobs/letters")
	for query, want := range map[string]string{"error": "Error", "İstan": "İstan", `a[0]/(B)-{c}|d.*+?^$`: `a[0]/(b)-{c}|d.*+?^$`, `\A`: `\a`} {
		browser.Eval[any](b, "document.getElementById('query').value = ''")
		b.Write("#query", query)
		b.UntilText("#found", "1 of 1")
		b.Until(fmt.Sprintf("document.querySelector('.row.current mark')?.textContent === %q", want))
	}
}
