//go:build integration

package page

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/browser"
	"iglu.sh/builder/test/kit/fixture"
)

// looks are the window sizes and color schemes in which each page is checked. The quick suite uses the first two.
var looks = []struct {
	width, height int64
	scheme        string
}{
	{1280, 720, "light"}, {390, 844, "dark"},
	{1440, 900, "light"}, {1440, 900, "dark"},
	{1280, 720, "dark"}, {390, 844, "light"},
}

// store returns the store path of a derivation.
func store(name string) string { return "/nix/store/" + strings.Repeat("0", 32) + "-" + name + ".drv" }

const longLog = 3000 // lines

// putLong adds a job with a long log and some derivations, one of which has failed.
func (k *kept) putLong(job string) {
	r := history.Record{Job: job, Repository: "https://github.com/iglu-sh/igloo.git", Branch: "main", Command: "nix build -L .#igloo --print-out-paths",
		Commit: "f7df396f0246e9ee6e364f2010fe3b4bb559151e"}
	l := k.begin(r)
	tell(l, schemas.PhaseEvent{Phase: schemas.Fetch}, "iglu: cloning https://github.com/iglu-sh/igloo.git", "iglu: could not clone it", "iglu: warning: and it is late")
	tell(l, schemas.PhaseEvent{Phase: schemas.Build})
	tell(l, schemas.PlanEvent{Derivations: []schemas.PlannedDerivation{{Derivation: store("libsnow-1.4")}, {Derivation: store("igloo-2.0"), Needs: []int{0}}}})
	tell(l, schemas.DerivationEvent{Derivation: store("libsnow-1.4"), State: schemas.DerivationBuilding})
	tell(l, schemas.DerivationEvent{Derivation: store("libsnow-1.4"), State: schemas.DerivationBuilt})
	tell(l, schemas.DerivationEvent{Derivation: store("igloo-2.0"), State: schemas.DerivationBuilding})
	for n := range longLog {
		tell(l, nil, fmt.Sprintf("igloo> block %d of \x1b[32mthe wall\x1b[0m %s", n, strings.Repeat("is in its place ", n%23)))
	}
	tell(l, schemas.DerivationEvent{Derivation: store("igloo-2.0"), State: schemas.DerivationFailed, Log: []string{"\x1b[31merror:\x1b[0m expected a block before the key stone"}},
		"error: builder for 'igloo-2.0.drv' failed with exit code 1")
	k.end(l, r, schemas.Exited(1))
}

// tell adds an event and lines to a job's log.
func tell(l *joblog.Log, e schemas.Event, lines ...string) {
	if e != nil {
		l.Event(e)
	}
	for _, line := range lines {
		l.Printf("%s", line)
	}
}

// inWindow returns a JavaScript expression that is true if the last element of a selector is inside the window and
// not covered by another element.
func inWindow(selector string) string {
	return fmt.Sprintf(`((element) => {
  if (!element) return false;
  const box = element.getBoundingClientRect(), x = Math.max(0, box.left) + 5, y = Math.min(box.bottom, box.top + 20) - 5;
  return box.top >= 0 && y > 0 && box.height > 0 && Math.min(box.bottom, box.top + 20) <= innerHeight && element.contains(document.elementFromPoint(x, y));
})([...document.querySelectorAll(%q)].at(-1))`, selector)
}

// TestLooks checks each page in windows of several sizes, light and dark. The requested part of a log is visible,
// and axe finds no serious problem.
func TestLooks(t *testing.T) {
	k := serveKept(t)
	k.putLong("long")
	running := k.begin(history.Record{Job: "running", Command: "nix build"})
	tell(running, schemas.PhaseEvent{Phase: schemas.Build}, "a line")
	b := browser.OpenTab(t)
	for _, look := range looks[:fixture.Size(2, len(looks))] {
		name := fmt.Sprintf("%dx%d, %s", look.width, look.height, look.scheme)
		b.Look(look.width, look.height, look.scheme)
		b.Open(k.url + "/jobs/long")
		b.UntilText("#derivations-count", "2")
		b.Until("document.querySelectorAll('.row:not(.waits)').length > 5")
		b.CheckLook()
		if wraps := browser.Eval[bool](b, "document.querySelector('#wrap').ariaPressed === 'true'"); wraps != (look.width == 390) {
			t.Errorf("%s: lines are wrapped: %t", name, wraps)
		}
		b.Do(chromedp.Focus(chromedp.CSS("#view")))
		b.Press(kb.Home)
		b.Press(kb.End)
		b.UntilText("#rows", "failed with exit code 1")
		seen(b, name+": after End, the last line", ".row", "failed with exit code 1")
		for _, query := range []string{"block 1999 of", "block 22 of", "block 2999 of"} {
			browser.Eval[any](b, "scrollTo(0, 0)")
			browser.Eval[any](b, "document.getElementById('query').value = ''")
			b.Write("#query", query)
			b.UntilText(".row.current mark", query)
			seen(b, name+": the line found", ".row.current", query)
		}
		b.Open("about:blank")
		b.Open(k.url + "/jobs/long#L1500")
		b.UntilText(".row.chosen", "block 1496 of")
		b.UntilText("#derivations-count", "2")
		seen(b, name+": the line of the link", ".row.chosen", "block 1496 of")

		for _, path := range []string{"/", "/?repository=github.com/iglu-sh/igloo", "/jobs/running", "/new", "/login", "/jobs/none"} {
			b.Expect("404")
			b.Open(k.url + path)
			b.Until("document.querySelector('main').children.length > 0")
			b.CheckLook()
		}
	}
	k.end(running, history.Record{Job: "running", Command: "nix build"}, schemas.Exited(0))
}

// seen checks that an element with a text is visible in the window and stays visible.
func seen(b *browser.Tab, what, selector, text string) {
	b.T.Helper()
	b.Until(inWindow(selector))
	b.AwaitDrawn()
	if !browser.Eval[bool](b, inWindow(selector)) || !strings.Contains(browser.Eval[string](b, fmt.Sprintf("[...document.querySelectorAll(%q)].at(-1).textContent", selector)), text) {
		b.T.Errorf("%s is not visible", what)
	}
}

// TestReasonFirst checks the pages of jobs that failed for six reasons. The reason must be in the first 300 px.
func TestReasonFirst(t *testing.T) {
	k := serveKept(t)
	failures := []history.Record{
		{End: jobend.Exited, Reason: "igloo-2.0 failed: roof.c:12:5: error: expected a block before the key stone"},
		{End: jobend.Exited, Reason: "could not clone https://git.example.com/a-team/with-a-long-name.git (Authentication failed for 'https://git.example.com')"},
		{End: jobend.Unpushed, Reason: "the build itself succeeded, but 1 of 2 paths could not be pushed: the cache cannot be reached"},
		{End: jobend.OutOfMemory, Reason: "out of memory: igloo-2.0 failed: g++: fatal error: Killed signal terminated program cc1plus"},
		{End: jobend.TimedOut, Reason: "cancelled: it ran longer than 6h0m0s, which is the most that the builder allows"},
		{End: jobend.NoImage, Reason: "the job image docker.io/nixos/nix:2.34.8 is not on the engine and cannot be pulled"},
	}
	for n := range failures {
		r := &failures[n]
		r.Job, r.Repository, r.Branch = fmt.Sprint("job", n), "https://git.example.com/a-team/with-a-long-name.git", "a-branch"
		r.Command = "nix build --print-build-logs --print-out-paths .#nixosConfigurations.somewhere.config.system.build.toplevel"
		l := k.begin(*r)
		tell(l, schemas.PhaseEvent{Phase: schemas.Build}, "a line", "iglu: failed: "+r.Reason)
		response := schemas.Exited(1)
		response.Msg = r.Reason + ". Its own log says more."
		k.end(l, *r, response)
	}
	b := browser.OpenTab(t)
	for _, look := range looks[:fixture.Size(2, len(looks))] {
		b.Look(look.width, look.height, look.scheme)
		for _, r := range failures {
			b.Open(k.url + "/jobs/" + r.Job)
			b.UntilText("#status", r.Reason)
			b.UntilText(".row .error-line", r.Reason)
			if bottom := browser.Eval[float64](b, "document.querySelector('#status p').getBoundingClientRect().bottom"); bottom > 300 {
				t.Errorf("%d px: %q ends at %.0f px", look.width, r.Reason, bottom)
			}
		}
		b.Open(k.url + "/")
		for _, r := range failures {
			b.UntilText("#jobs", r.Reason)
		}
	}
}

// TestLogTools folds a phase, shows times, links to a range of lines, and copies.
func TestLogTools(t *testing.T) {
	k := serveKept(t)
	k.putLong("long")
	b := browser.OpenTab(t)
	b.Look(1280, 720, "light")
	b.Open(k.url + "/jobs/long#L2")
	b.UntilText(".row.chosen", "could not clone")
	b.UntilText(".row .error-line", "could not clone")
	b.UntilText(".row .warning", "and it is late")
	if title := browser.Eval[string](b, "document.title"); !strings.HasPrefix(title, "✗ igloo: nix build") {
		t.Errorf("the title is %q", title)
	}
	if icon := browser.Eval[string](b, "document.querySelector('link[rel=icon]').href"); !strings.HasSuffix(icon, "/assets/icon-bad.svg") {
		t.Errorf("the icon is %s", icon)
	}

	const heads = "[...document.querySelectorAll('.part')].map((part) => part.textContent).join(', ')"
	b.Until(heads + " === 'Fetch the source3 lines, Build3,001 lines'")
	b.Click(".part button")
	b.Until("!document.getElementById('rows').textContent.includes('could not clone') && document.querySelector('.part button').ariaExpanded === 'false'")
	b.Write("#query", "late") // the text is in the folded phase
	b.UntilText(".row.current", "and it is late")
	seen(b, "the line that was folded away", ".row.current", "and it is late")

	b.Click("#times")
	b.Until("/^\\d\\d:\\d\\d:\\d\\d$/.test(document.querySelector('.row .stamp').textContent) && document.querySelector('.row .stamp').title.endsWith('UTC')")
	b.Click("#times")
	b.Until("!document.querySelector('.stamp')")

	const shiftClick = `[...document.querySelectorAll(".row .number")].find((number) => number.textContent === "%d")
		.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true, shiftKey: true })), location.hash`
	if hash := browser.Eval[string](b, fmt.Sprintf(shiftClick, 5)); hash != "#L2-L5" {
		t.Errorf("the link to the range is %s", hash)
	}
	b.Until("document.querySelectorAll('.row.chosen').length === 4")
	b.Do(chromedp.Focus(chromedp.CSS("#view")))
	browser.Eval[any](b, "location.hash = '#L3-L4'")
	b.Until("document.querySelectorAll('.row.chosen').length === 2")

	browser.Eval[any](b, "navigator.clipboard.writeText = async (text) => { window.copied = text; }")
	b.Click("[aria-label='Copy the commit']")
	b.Until("window.copied === 'f7df396f0246e9ee6e364f2010fe3b4bb559151e'")
	b.Until("document.querySelector(\"[aria-label='Copy the commit']\").dataset.copied === 'yes'")
	for text, href := range map[string]string{
		"github.com/iglu-sh/igloo": "https://github.com/iglu-sh/igloo",
		"main":                     "https://github.com/iglu-sh/igloo/tree/main",
		"f7df396":                  "https://github.com/iglu-sh/igloo/commit/f7df396f0246e9ee6e364f2010fe3b4bb559151e",
	} {
		if got := browser.Eval[string](b, fmt.Sprintf("[...document.querySelectorAll('.where a')].find((a) => a.textContent === %q)?.href ?? ''", text)); got != href {
			t.Errorf("%s leads to %q", text, got)
		}
	}
	if hover := browser.Eval[string](b, "document.querySelector('.where time').title"); !strings.HasSuffix(hover, "UTC") {
		t.Errorf("the tooltip of the time is %q", hover)
	}
}
