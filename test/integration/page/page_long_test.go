//go:build integration && long

package page

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"iglu.sh/builder/test/kit/browser"
	"iglu.sh/builder/test/kit/fixture"
)

// wheel turns the mouse wheel at a position in the window.
func wheel(x, y, delta float64) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, input.DispatchMouseEvent, input.DispatchMouseEventParams{
			Type: input.DispatchMouseEventTypeMouseWheel, X: x, Y: y, DeltaX: 1e-9, DeltaY: delta}) // not 0, which would be omitted
		return err
	})
}

const million = 1_000_000

// TestPageOfLongLog opens a log of a million lines.
func TestPageOfLongLog(t *testing.T) {
	s := fixture.StartProcess(t, "--job-image", fixture.Env.Image, "--allowed-commands", "seq,sh")
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command(fmt.Sprintf(`sh -c 'seq -f "line %%.0f of the log of a build that goes on and on" %d; exit 0'`, million))))
	drain(c)
	var b *browser.Tab
	var slower, first, paint float64
	for range 3 { // the machine may be busy with something else
		b = browser.OpenTab(t)
		slower = b.Slower()
		b.Open("http://" + s.Address + "/jobs/" + fixture.NewestJob(t, s))
		b.Until("window.firstLine")
		first = browser.Eval[float64](b, "firstLine")
		paint = browser.Eval[float64](b, "performance.getEntriesByName('first-contentful-paint')[0].startTime")
		if max(first, paint) < 1000 {
			break
		}
	}
	if max(first, paint) >= 1000*slower {
		t.Errorf("the first paint took %.0f ms, the first line %.0f ms", paint, first)
	}

	for range 40 { // with the wheel
		b.Do(wheel(640, 600, 2000))
	}
	for i := range 40 { // with the scroll bar
		browser.Eval[any](b, fmt.Sprintf("document.getElementById('view').scrollTop = %d * 370000", i))
	}
	b.Do(chromedp.Focus(chromedp.CSS("#view")))
	b.Press(kb.End)
	b.UntilText("#rows", fmt.Sprintf("line %d of", million))
	b.Press(kb.PageUp)
	b.Press(kb.Home)
	b.UntilText("#rows", "line 1 of")

	b.Write("#query", "LINE 99999")
	b.UntilText("#found", "1 of 11")
	b.UntilText(".row.current mark", "line 99999")
	b.Press(kb.Enter)
	b.UntilText("#found", "2 of 11")
	b.UntilText(".row.current mark", "line 99999")
	b.Click("#previous")
	b.Click("#previous")
	b.UntilText(".row.current", "line 999999 of")
	b.Click("#wrap")
	b.AwaitDrawn()
	b.UntilText("#rows", "line 999999 of")

	b.Do(chromedp.Focus(chromedp.CSS("#view"))) // links to a line with the keyboard
	b.Press(kb.Enter)
	b.UntilText(".row.chosen", "line 999999 of")
	browser.Eval[any](b, "location.hash = ''")
	b.Click(".row.current .number")
	b.UntilText(".row.chosen", "line 999999 of")
	link := browser.Eval[string](b, "location.href")
	if !strings.HasSuffix(link, "#L1000003") { // the first four lines are the builder's own
		t.Errorf("the link to the line is %s", link)
	}
	longest := b.LongestTask()
	t.Logf("first paint %.0f ms, first line %.0f ms, longest task %.0f ms, %.1f times as slow as usual", paint, first, longest, slower)
	if longest > 200*slower && longest > 200*browser.OpenTab(t).Slower() {
		t.Errorf("a task took %.0f ms", longest)
	}
	browser.Eval[any](b, "setTimeout(() => { for (const end = performance.now() + 300; performance.now() < end;); })")
	b.Until("Math.max(0, ...longTasks) > 200") // shows that the page detects long tasks

	b.Open("about:blank")
	b.Open(link)
	b.UntilText(".row.chosen", "line 999999 of")

	if rows := browser.Eval[int](b, "document.querySelectorAll('*').length"); rows > 1000 {
		t.Errorf("%d elements are in the document", rows)
	}
	b.CheckAccess()
}
