// Package browser controls a real Chromium for tests of the page.
package browser

import (
	"context"
	_ "embed"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// A Tab is a tab of a Chromium. Errors and warnings on its console fail the test.
type Tab struct {
	T   *testing.T
	ctx context.Context

	mu             sync.Mutex
	complaints     []string // errors and warnings of the console
	expected       string
	networkChanged bool // parts of the page were not loaded because the network changed
}

// tabTimeout limits each wait in a browser.
const tabTimeout = 30 * time.Second

const pageText = `location + "\n" + document.body.innerText`

// watched is a script that records the page's long tasks, and the time at which its log shows the first line.
const watched = `
window.longTasks = [];
new PerformanceObserver((list) => longTasks.push(...list.getEntries().map((e) => e.duration))).observe({ type: "longtask", buffered: true });
const awaitLine = () => {
  if (document.querySelector(".row:not(.waits)")) window.firstLine = performance.now();
  else requestAnimationFrame(awaitLine);
};
requestAnimationFrame(awaitLine);`

// shared is the browser of all tabs. The first tab starts it, because that takes a second.
var shared struct {
	start sync.Once
	ctx   context.Context
	err   error
	stop  context.CancelFunc
}

func start() {
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.WindowSize(1280, 900))
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	shared.ctx, shared.err = ctx, chromedp.Do(ctx)
	shared.stop = func() { cancel(); stopAllocator() }
}

// Close ends the browser if one was started. It is called after all tests.
func Close() error {
	if shared.ctx == nil {
		return nil
	}
	err := chromedp.Cancel(shared.ctx)
	shared.stop()
	return err
}

// OpenTab opens a tab that shares no cookies and no storage with others. It is closed when the test ends.
func OpenTab(t *testing.T) *Tab {
	t.Helper()
	if shared.start.Do(start); shared.err != nil {
		t.Fatal(shared.err)
	}
	ctx, cancel := chromedp.NewContext(shared.ctx, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Error(err)
		}
	})
	return newTab(t, ctx)
}

func newTab(t *testing.T, ctx context.Context) *Tab {
	t.Helper()
	b := &Tab{T: t, ctx: ctx}
	// The first call must not have a context with a deadline: the tab would end with that context.
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
	b.Do(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: watched})
		return err
	}))
	return b
}

// Expect makes the tab ignore errors and warnings that contain a text.
func (b *Tab) Expect(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expected = text
}

// networkChanged is the browser's error for a request during which a network of the machine appears or
// disappears. Containers of other tests cause that.
const networkChanged = "ERR_NETWORK_CHANGED"

func (b *Tab) hear(m chromedp.ConsoleMessage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch m.Type {
	case chromedp.ConsoleError, chromedp.ConsoleWarning, chromedp.ConsoleException:
		switch {
		case strings.Contains(m.Text, networkChanged):
			b.networkChanged = true
		case b.expected == "" || !strings.Contains(m.Text, b.expected):
			b.complaints = append(b.complaints, fmt.Sprintf("%s: %s (%s)", m.Type, m.Text, m.URL))
		}
	}
}

// act runs an action in a tab and returns its result.
func act[T any](b *Tab, action chromedp.Action[T]) T {
	b.T.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, tabTimeout)
	defer cancel()
	result, err := chromedp.Run(ctx, action)
	if err != nil {
		b.T.Fatal(err)
	}
	return result
}

// Do runs actions in the tab.
func (b *Tab) Do(actions ...chromedp.Action[chromedp.Void]) {
	b.T.Helper()
	for _, action := range actions {
		act(b, action)
	}
}

// Click clicks on an element.
func (b *Tab) Click(selector string) { b.T.Helper(); b.Do(chromedp.Click(chromedp.CSS(selector))) }

// Write types a text into an element.
func (b *Tab) Write(selector, text string) {
	b.T.Helper()
	b.Do(chromedp.SendKeys(chromedp.CSS(selector), text))
}

// Press presses a key.
func (b *Tab) Press(key string) { b.T.Helper(); b.Do(chromedp.KeyEvent(key)) }

// Open opens a page, and opens it again if the machine's networks change meanwhile.
func (b *Tab) Open(url string) {
	b.T.Helper()
	for again := true; again; again = b.hasNetworkChanged() {
		b.Do(chromedp.Navigate(url))
		b.AwaitDrawn() // messages of the console have arrived by then
	}
}

// Eval returns the value of a JavaScript expression.
func Eval[T any](b *Tab, expression string) T {
	b.T.Helper()
	return act(b, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// Until waits until a JavaScript expression is true. If the machine's networks have changed, so that a part of the page may
// be missing, it opens the page again after a while.
func (b *Tab) Until(expression string) {
	b.T.Helper()
	// It polls, because a script that waits would be lost if the page navigates meanwhile.
	ctx, cancel := context.WithTimeout(b.ctx, tabTimeout)
	defer cancel()
	again := time.Now().Add(tabTimeout / 3)
	for {
		is, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+expression+")"))
		switch {
		case err == nil && is:
			return
		case ctx.Err() != nil:
			b.T.Fatalf("not true in time: %s (%v); the page is %.3000s", expression, err, Eval[string](b, pageText))
		case time.Now().After(again) && b.hasNetworkChanged():
			b.Do(chromedp.Reload())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// hasNetworkChanged reports whether the machine's networks have changed during a request since the last call.
func (b *Tab) hasNetworkChanged() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := b.networkChanged
	b.networkChanged = false
	return changed
}

// AwaitDrawn waits until the page has drawn its pending changes. Before that, a click could miss its element.
// It does not wait in a hidden tab, which draws nothing.
func (b *Tab) AwaitDrawn() {
	b.T.Helper()
	Eval[any](b, "document.hidden ? null : new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))).then(() => null)")
}

// UntilText waits until an element contains text.
func (b *Tab) UntilText(selector, text string) {
	b.T.Helper()
	b.Until(fmt.Sprintf("(document.querySelector(%q)?.textContent ?? '').includes(%q)", selector, text))
}

// Look sets the size of the window and the preferred color scheme (light or dark), and waits until the page
// is drawn.
func (b *Tab) Look(width, height int64, scheme string) {
	b.T.Helper()
	b.Do(chromedp.EmulateViewport(width, height), chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		return err
	}))
	b.AwaitDrawn()
}

// axe finds accessibility problems; see its README.
//
//go:embed axe/axe.min.js
var axe string

// CheckAccess checks the page with axe, light and dark, wide and narrow, and checks that nothing is outside
// the window.
func (b *Tab) CheckAccess() {
	b.T.Helper()
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{1600, 360} {
			b.Look(width, 900, scheme)
			b.CheckLook()
		}
	}
	b.Look(1280, 900, "light")
}

// CheckLook is CheckAccess for the current size and color scheme only.
func (b *Tab) CheckLook() {
	b.T.Helper()
	look := Eval[string](b, "innerWidth + ' px, ' + (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')")
	if !Eval[bool](b, "'axe' in window") {
		Eval[any](b, axe+"; null")
	}
	found := Eval[[]string](b, `axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) => violations
		.filter((v) => v.impact === "serious" || v.impact === "critical")
		.flatMap((v) => v.nodes.map((n) => v.id + ": " + n.html + " " + n.failureSummary)))`)
	for _, finding := range found {
		b.T.Errorf("%s: %.500s", look, finding)
	}
	if over := Eval[int](b, "document.documentElement.scrollWidth - innerWidth"); over > 0 {
		b.T.Errorf("%s: the page is %d px wider than the window", look, over)
	}
}

// LongestTask returns the duration of the page's longest task since the last call, in ms.
func (b *Tab) LongestTask() float64 {
	b.T.Helper()
	return Eval[float64](b, `new Promise((done) => setTimeout(done, 100)) // until the last one is reported
		.then(() => Math.max(0, ...longTasks.splice(0)))`)
}

// pace is a script that measures how long an empty page takes for a fixed piece of work, in ms: the median
// of the last 9 runs. The runs before them let a new browser warm up.
const pace = `Array.from({ length: 24 }, () => {
	const box = document.createElement("div");
	const begun = performance.now();
	box.innerHTML = "<p>some <b>words</b></p>".repeat(3000);
	document.body.append(box);
	box.offsetHeight; // forces the layout
	box.remove();
	return performance.now() - begun;
}).slice(-9).sort((a, b) => a - b)[4]`

// usualPace is the result of pace on the machine for which the tests' limits in milliseconds are written.
const usualPace = 40

// Slower returns the factor by which the browser is slower than usual, at least 1. Tests multiply their limits
// by it, because machines differ and may be busy. The tab must be empty.
func (b *Tab) Slower() float64 {
	b.T.Helper()
	return max(1, Eval[float64](b, pace)/usualPace)
}
