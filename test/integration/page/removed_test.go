//go:build integration

package page

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/browser"
)

// TestRemovedLog scrolls in a log that was removed after the page had been opened: the page says so. It shows the log
// again if it is there again, because a proxy may answer 404 while a builder restarts.
func TestRemovedLog(t *testing.T) {
	k := serveKept(t)
	r := history.Record{Job: "removed", Command: "nix build"}
	l := k.begin(r)
	tell(l, schemas.PhaseEvent{Phase: schemas.Build}, strings.Split(strings.TrimSuffix(strings.Repeat("a line\n", 5000), "\n"), "\n")...)
	k.end(l, r, schemas.Exited(0))
	b := browser.OpenTab(t)
	b.Expect("404")
	b.Open(k.url + "/jobs/removed")
	b.UntilText(".row:first-child .line, .part + .row .line", "a line")
	file := filepath.Join(k.folder, "removed.log")
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	browser.Eval[any](b, "location.hash = '#L3000', null")
	b.UntilText(".row.waits .line", "The builder no longer has this line.")
	b.CheckAccess()
	b.Write("#query", "line")
	b.UntilText("#found", "The builder no longer has the log")
	if err := os.Rename(file+".away", file); err != nil {
		t.Fatal(err)
	}
	b.Until(fmt.Sprintf("[...document.querySelectorAll('.row .line')].some((line) => line.textContent === %q)", "a line"))
	b.UntilText("#found", "of 5,000")
}
