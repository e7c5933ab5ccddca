//go:build integration

package page

import (
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/browser"
)

// afterChecks waits until the page has asked for jobs again, and has drawn what it got.
func afterChecks(b *browser.Tab) {
	b.T.Helper()
	const asked = "performance.getEntriesByType('resource').filter((e) => e.name.includes('/api/v1/jobs?') || e.name.endsWith('/api/v1/jobs')).length"
	browser.Eval[int](b, "window.askedBefore = "+asked)
	b.Until(asked + " >= window.askedBefore + 4")
	b.AwaitDrawn()
}

// TestOtherJobs looks at the page of all jobs with one running job. It mentions other jobs only while they run, and
// keeps the reason when its job has failed.
func TestOtherJobs(t *testing.T) {
	k := serveKept(t)
	long := history.Record{Job: "long", Command: "nix build .#long", Begun: time.Now().Add(-time.Hour), Started: time.Now()}
	short := history.Record{Job: "short", Command: "nix build .#short", Begun: time.Now().Add(-time.Minute), Started: time.Now()}
	longLog := k.begin(long)
	k.end(k.begin(short), short, schemas.Exited(0))

	b := browser.OpenTab(t)
	b.Open(k.url + "/")
	b.Until("document.getElementById('job').dataset.job === 'long'")
	afterChecks(b)
	if text := browser.Eval[string](b, "document.getElementById('others').textContent"); text != "" {
		t.Errorf("the only running job's page says %q", text)
	}

	next := history.Record{Job: "next", Command: "nix build .#next", Begun: time.Now(), Started: time.Now()}
	nextLog := k.begin(next)
	b.UntilText("#others:not([hidden])", "Another job is running. Show all.")
	k.end(nextLog, next, schemas.Exited(0))
	b.Until("document.getElementById('others').hidden")
	b.UntilText("#jobs", "nix build .#next")

	long.Reason = "long failed: it was too long"
	k.end(longLog, long, schemas.Exited(1))
	b.UntilText("#status", "it was too long")
	afterChecks(b)
	if text := browser.Eval[string](b, "document.getElementById('status').textContent"); text != "long failed: it was too longExit code 1." {
		t.Errorf("the reason of the failed job has become %q", text)
	}
	b.Until("document.getElementById('others').hidden")
	last := history.Record{Job: "last", Command: "nix build .#last", Begun: time.Now(), Started: time.Now()}
	lastLog := k.begin(last)
	b.UntilText("#others:not([hidden])", "Another job is running. Show all.")
	b.UntilText("#status", "it was too long")
	k.end(lastLog, last, schemas.Exited(0))
}

// TestListKeepsFocus moves the focus to a job in the list. It stays there when the list is renewed, because a keyboard
// would else begin again at the top of the page.
func TestListKeepsFocus(t *testing.T) {
	k := serveKept(t)
	running := history.Record{Job: "running", Command: "nix build .#long", Started: time.Now()}
	l := k.begin(running)
	first := history.Record{Job: "first", Command: "nix build .#first"}
	k.end(k.begin(first), first, schemas.Exited(0))
	b := browser.OpenTab(t)
	b.Open(k.url + "/")
	afterChecks(b)
	browser.Eval[any](b, "document.querySelector('#jobs .list a').focus()")
	second := history.Record{Job: "second", Command: "nix build .#second"}
	k.end(k.begin(second), second, schemas.Exited(0))
	b.UntilText("#jobs", "nix build .#second")
	if at := browser.Eval[string](b, "document.activeElement.closest('#jobs a')?.textContent ?? ''"); !strings.Contains(at, "nix build .#first") {
		t.Errorf("the focus is at %q", at)
	}
	k.end(l, running, schemas.Exited(0))
}

// TestWaitingJob looks at the page of a job that waits for a slot and then runs. The list of phases, the log and the title
// say so.
func TestWaitingJob(t *testing.T) {
	k := serveKept(t)
	r := history.Record{Job: "waiting", Command: "nix build"}
	l := k.begin(r)
	tell(l, schemas.PhaseEvent{Phase: schemas.Wait})
	tell(l, schemas.QueueEvent{Ahead: 2}, "iglu: waiting for a free slot, 2 jobs ahead")
	b := browser.OpenTab(t)
	b.Open(k.url + "/jobs/waiting")
	b.UntilText("#numbers", "2 ahead")
	b.UntilText("#phases .now", "Wait for a slot")
	b.UntilText("#rows .part", "Wait for a slot")
	b.Until("document.title.startsWith('○ nix build')")
	b.Until("document.getElementById('icon').href.endsWith('/assets/icon-waiting.svg')")
	r.Started = time.Now()
	if err := k.records.Put(r); err != nil {
		t.Fatal(err)
	}
	tell(l, schemas.PhaseEvent{Phase: schemas.Create})
	b.UntilText("#phases .now", "Start the container")
	b.UntilText("#phases .past", "Wait for a slot")
	b.Until("document.title.startsWith('● nix build')")
	b.Until("document.getElementById('icon').href.endsWith('/assets/icon-running.svg')")
	k.end(l, r, schemas.Exited(0))
	b.Until("document.title.startsWith('✓ nix build')")
	b.Until("document.getElementById('icon').href.endsWith('/assets/icon-good.svg')")
}
