//go:build integration

package page

import (
	"context"
	_ "embed"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
)

// A tab is one of a real Chromium. What its console complains of fails the test.
type tab struct {
	t   *testing.T
	ctx context.Context

	complaints []string // of the console
	expected   string   // a complaint that holds this text is none
}

// tabTimeout bounds what a test waits for in a browser.
const tabTimeout = 30 * time.Second

const pageText = `location + "\n" + document.body.innerText`

// watched notes how a page does: tasks that hold up its browser, and when its log's first
// line is there.
const watched = `
window.longTasks = [];
new PerformanceObserver((list) => longTasks.push(...list.getEntries().map((e) => e.duration))).observe({ type: "longtask", buffered: true });
const awaitLine = () => {
  if (document.querySelector(".row:not(.waits)")) window.firstLine = performance.now();
  else requestAnimationFrame(awaitLine);
};
requestAnimationFrame(awaitLine);`

// openTab starts a browser.
func openTab(t *testing.T) *tab {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.WindowSize(1280, 900))
	allocator, stop := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Error(err)
		}
	})
	return newTab(t, ctx)
}

func newTab(t *testing.T, ctx context.Context) *tab {
	t.Helper()
	b := &tab{t: t, ctx: ctx}
	// The first time, a context with an end of its own would end the browser with it.
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(ctx)
	console, listened := chromedp.Console(ctx), make(chan struct{})
	go func() {
		defer close(listened)
		for message, err := range console {
			if err == nil {
				b.hear(message)
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		<-listened
		for _, complaint := range b.complaints {
			t.Errorf("the console says: %s", complaint)
		}
	})
	b.do(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: watched})
		return err
	}))
	return b
}

func (b *tab) hear(m chromedp.ConsoleMessage) {
	switch m.Type {
	case chromedp.ConsoleError, chromedp.ConsoleWarning, chromedp.ConsoleException:
		if b.expected == "" || !strings.Contains(m.Text, b.expected) {
			b.complaints = append(b.complaints, fmt.Sprintf("%s: %s (%s)", m.Type, m.Text, m.URL))
		}
	}
}

// act does something in a tab and returns what comes of it.
func act[T any](b *tab, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, tabTimeout)
	defer cancel()
	result, err := chromedp.Run(ctx, action)
	if err != nil {
		b.t.Fatal(err)
	}
	return result
}

func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	for _, action := range actions {
		act(b, action)
	}
}

func (b *tab) click(selector string) { b.t.Helper(); b.do(chromedp.Click(chromedp.CSS(selector))) }

func (b *tab) write(selector, text string) {
	b.t.Helper()
	b.do(chromedp.SendKeys(chromedp.CSS(selector), text))
}

func (b *tab) press(key string) { b.t.Helper(); b.do(chromedp.KeyEvent(key)) }

func (b *tab) open(url string) { b.t.Helper(); b.do(chromedp.Navigate(url)) }

// eval returns what a script's expression amounts to.
func eval[T any](b *tab, expression string) T {
	b.t.Helper()
	return act(b, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// until waits for a script's expression to be true.
func (b *tab) until(expression string) {
	b.t.Helper()
	// From here, because a page that goes elsewhere meanwhile forgets what it was asked.
	ctx, cancel := context.WithTimeout(b.ctx, tabTimeout)
	defer cancel()
	for {
		is, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+expression+")"))
		switch {
		case err == nil && is:
			return
		case ctx.Err() != nil:
			b.t.Fatalf("never %s (%v); the page is %.3000s", expression, err, eval[string](b, pageText))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// settle waits until what a page is about to draw is drawn: till then a click could go astray.
// A tab behind another draws nothing.
func (b *tab) settle() {
	b.t.Helper()
	eval[any](b, "document.hidden ? null : new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))).then(() => null)")
}

// untilText waits for an element to hold text.
func (b *tab) untilText(selector, text string) {
	b.t.Helper()
	b.until(fmt.Sprintf("(document.querySelector(%q)?.textContent ?? '').includes(%q)", selector, text))
}

// next returns the tab that do opens, when it is at a place.
func (b *tab) next(at string, do func()) *tab {
	b.t.Helper()
	opened := chromedp.WaitNewTarget(b.ctx, func(info *target.Info) bool { return strings.Contains(info.URL, at) })
	do()
	select {
	case id := <-opened:
		ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithTargetID(id))
		b.t.Cleanup(cancel)
		return newTab(b.t, ctx)
	case <-time.After(tabTimeout):
		b.t.Fatalf("no tab opens at %s", at)
		return nil
	}
}

// look sets how wide the window is and whether the person likes it dark, and waits for the
// page to follow.
func (b *tab) look(width, height int64, scheme string) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(width, height), chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		return err
	}))
	b.settle()
}

// axe finds what people with a disability could not use; see its README.
//
//go:embed testdata/axe/axe.min.js
var axe string

// checkAccess has axe look at the page, light and dark, wide and narrow, and checks that
// nothing is beside the window.
func (b *tab) checkAccess() {
	b.t.Helper()
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{1600, 360} {
			b.look(width, 900, scheme)
			eval[any](b, axe+"; null")
			found := eval[[]string](b, `axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) => violations
				.filter((v) => v.impact === "serious" || v.impact === "critical")
				.flatMap((v) => v.nodes.map((n) => v.id + ": " + n.html + " " + n.failureSummary)))`)
			for _, finding := range found {
				b.t.Errorf("%s, %d px: %.500s", scheme, width, finding)
			}
			if over := eval[int](b, "document.documentElement.scrollWidth - innerWidth"); over > 0 {
				b.t.Errorf("%d px: the page is %d px wider than the window", width, over)
			}
		}
	}
	b.look(1280, 900, "light")
}
