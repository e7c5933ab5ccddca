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

	"iglu.sh/builder/test/kit/fixture"
)

// wheel turns the wheel over a place in the window.
func wheel(x, y, delta float64) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, input.DispatchMouseEvent, input.DispatchMouseEventParams{
			Type: input.DispatchMouseEventTypeMouseWheel, X: x, Y: y, DeltaX: 1e-9, DeltaY: delta}) // 0 would be left out
		return err
	})
}

const million = 1_000_000

// TestPageOfLongLog looks at a log of a million lines.
func TestPageOfLongLog(t *testing.T) {
	s := fixture.StartProcess(t, "--job-image", fixture.Env.Image, "--allowed-commands", "seq,sh")
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command(fmt.Sprintf(`sh -c 'seq -f "line %%.0f of the log of a build that goes on and on" %d; exit 0'`, million))))
	drain(c)
	var b *tab
	var slower, first, paint float64
	for range 3 { // the machine may be busy with something else
		b = openTab(t)
		slower = b.slower()
		b.open("http://" + s.Address + "/jobs/" + fixture.NewestJob(t, s))
		b.until("window.firstLine")
		first = eval[float64](b, "firstLine")
		paint = eval[float64](b, "performance.getEntriesByName('first-contentful-paint')[0].startTime")
		if max(first, paint) < 1000 {
			break
		}
	}
	if max(first, paint) >= 1000*slower {
		t.Errorf("the first paint took %.0f ms, the first line %.0f ms", paint, first)
	}

	for range 40 { // by the wheel
		b.do(wheel(640, 600, 2000))
	}
	for i := range 40 { // by the bar
		eval[any](b, fmt.Sprintf("document.getElementById('view').scrollTop = %d * 370000", i))
	}
	b.do(chromedp.Focus(chromedp.CSS("#view")))
	b.press(kb.End)
	b.untilText("#rows", fmt.Sprintf("line %d of", million))
	b.press(kb.PageUp)
	b.press(kb.Home)
	b.untilText("#rows", "line 1 of")

	b.write("#query", "LINE 99999")
	b.untilText("#found", "1 of 11")
	b.untilText(".row.current mark", "line 99999")
	b.press(kb.Enter)
	b.untilText("#found", "2 of 11")
	b.untilText(".row.current mark", "line 99999")
	b.click("#previous")
	b.click("#previous")
	b.untilText(".row.current", "line 999999 of")
	b.click("#wrap")
	b.settle()
	b.untilText("#rows", "line 999999 of")

	b.do(chromedp.Focus(chromedp.CSS("#view"))) // who has no mouse links to a line so
	b.press(kb.Enter)
	b.untilText(".row.chosen", "line 999999 of")
	eval[any](b, "location.hash = ''")
	b.click(".row.current .number")
	b.untilText(".row.chosen", "line 999999 of")
	link := eval[string](b, "location.href")
	if !strings.HasSuffix(link, "#L1000002") { // the first lines are the builder's own
		t.Errorf("the link to the line is %s", link)
	}
	longest := b.longestTask()
	t.Logf("first paint %.0f ms, first line %.0f ms, longest task %.0f ms, %.1f times as slow as usual", paint, first, longest, slower)
	if longest > 200*slower && longest > 200*openTab(t).slower() {
		t.Errorf("a task took %.0f ms", longest)
	}
	eval[any](b, "setTimeout(() => { for (const end = performance.now() + 300; performance.now() < end;); })")
	b.until("Math.max(0, ...longTasks) > 200") // it would have been seen

	b.open("about:blank")
	b.open(link)
	b.untilText(".row.chosen", "line 999999 of")

	if rows := eval[int](b, "document.querySelectorAll('*').length"); rows > 1000 {
		t.Errorf("%d elements are in the document", rows)
	}
	b.checkAccess()
}
