//go:build integration

package page

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/browser"
	"iglu.sh/builder/test/kit/fixture"
)

// sendByForm fills in the form and submits it. The tab then shows the job's page.
func sendByForm(b *browser.Tab, s *fixture.Server, fields map[string]string) *browser.Tab {
	b.T.Helper()
	b.Open("http://" + s.Address + "/new")
	return fillIn(b, fields)
}

func fillIn(b *browser.Tab, fields map[string]string) *browser.Tab {
	b.T.Helper()
	enter(b, fields)
	b.Click("#submit")
	b.Until("location.pathname.startsWith('/jobs/') && document.readyState === 'complete'")
	return b
}

// enter fills in some fields of the form.
func enter(b *browser.Tab, fields map[string]string) {
	b.T.Helper()
	for name, text := range fields {
		selector := fmt.Sprintf("[name=%s]", name)
		if text == "on" {
			b.Click(selector)
			continue
		}
		browser.Eval[any](b, fmt.Sprintf("document.querySelector(%q).value = ''", selector))
		b.Write(selector, text)
	}
}

// TestPage uses the page as a person does: it sends examples/hello, watches its log, and finds the job after its end.
func TestPage(t *testing.T) {
	s := fixture.ServerWith(t, func(*server.Settings) {})
	home := browser.OpenTab(t)
	home.Open("http://" + s.Address)
	home.UntilText("#idle", "No job has been sent yet")
	home.CheckLook()

	job := sendByForm(home, s, map[string]string{"repository": fixture.Env.Git.Public + "/hello", "command": "nix build -L"})
	job.UntilText("#rows", "building hello")
	job.UntilText("#verdict", "succeeded")
	for _, fact := range []string{"Fetch the source", "Build", "Most memory", "CPU time"} {
		job.UntilText("#facts", fact)
	}
	job.UntilText("#job .commit", fixture.Head(t, fixture.Build(fixture.Env.Git.Public+"/hello", ""))[:7])
	job.CheckAccess()

	home.Open("http://" + s.Address)
	const done = `document.querySelector(".list a[href*='/jobs/']:has(.good)")`
	home.Until(done + " !== null")
	browser.Eval[any](home, done+".click()") // in one step, because the list is redrawn from time to time
	home.Until("location.pathname.startsWith('/jobs/')")
	home.UntilText("#rows", "building hello")
	home.UntilText("#verdict", "succeeded")
	home.Expect("404") // the browser itself logs it
	home.Open("http://" + s.Address + "/jobs/nosuchjob")
	home.UntilText("main", "no such page")
}

// TestPageOfRunningJob reloads a job's page while it runs, and cancels it on the page of all jobs.
func TestPageOfRunningJob(t *testing.T) {
	s := fixture.ServerWith(t, func(*server.Settings) {})
	slow := sendByForm(browser.OpenTab(t), s, map[string]string{"noClone": "on",
		"command": `sh -c 'for i in $(seq 3000); do echo tick $i; sleep 0.1; done'`})
	const ticks = `/tick \d/.test(document.getElementById("rows").textContent)` // a printed line, not the command in the head
	slow.Until(ticks)
	slow.CheckAccess()
	const last = "Math.max(...[...document.querySelectorAll('.row .number')].map((number) => number.textContent))"
	seen := browser.Eval[int](slow, last)
	slow.Do(chromedp.Reload())
	slow.Until(ticks)
	slow.Until(fmt.Sprintf("%s > %d", last, seen+5))
	slow.UntilText("#verdict", "running")

	// The job is also on the page of all jobs, where it can be cancelled.
	other := browser.OpenTab(t)
	other.Open("http://" + s.Address)
	other.Until(ticks)
	other.CheckAccess()
	other.Click("#cancel")
	other.CheckAccess() // with the question for confirmation
	other.Click("#sure button[value=no]")
	other.Click("#cancel")
	other.Click("#sure-yes")
	for _, b := range []*browser.Tab{slow, other} {
		b.UntilText("#verdict", "cancelled")
		b.UntilText("#status", "omebody cancelled it, on the page or with")
	}
}

// TestPageSecrets fills in secrets. The form shows dots, and clears them after sending.
func TestPageSecrets(t *testing.T) {
	s := fixture.ServerWith(t, func(*server.Settings) {})
	b := browser.OpenTab(t)
	b.Open("http://" + s.Address + "/new")
	browser.Eval[any](b, "document.querySelectorAll('details').forEach((d) => { d.open = true; })")
	enter(b, map[string]string{"repository": fixture.Env.Git.Private + "/hello", "command": "nix build -L",
		"gitUsername": fixture.GitUser, "gitKey": fixture.GitPassword,
		"accessTokens": "github.com=" + fixture.AccessToken, "netrc": "machine other.example login a password " + fixture.NetrcPassword})
	var shown fixture.Job
	preview := browser.Eval[string](b, "document.getElementById('preview').textContent")
	if err := json.Unmarshal([]byte(preview), &shown); err != nil {
		t.Fatalf("%v: %s", err, preview)
	}
	want := fixture.Build(fixture.Env.Git.Private+"/hello", "nix build -L")
	dots := strings.Repeat("•", 12)
	want.Git.GitUsername, want.Git.RequiresAuth, want.Git.GitKey = fixture.GitUser, true, dots
	want.Nix = schemas.Nix{AccessTokens: map[string]string{"github.com": dots}, Netrc: dots}
	want.Colors = true
	if diff := cmp.Diff(want, shown); diff != "" {
		t.Errorf("the preview (-want +got):\n%s", diff)
	}
	b.CheckAccess()
	b.Click("#submit")
	b.Until("location.pathname.startsWith('/jobs/')")
	b.UntilText("#verdict", "succeeded")
	if html := browser.Eval[string](b, "document.documentElement.outerHTML"); fixture.CheckSecrets(html) != nil {
		t.Error("the key is in the job's page")
	}
	browser.Eval[any](b, "setTimeout(() => history.back()), 0")
	b.UntilText("h1", "New job")
	if preview := browser.Eval[string](b, "document.getElementById('preview').textContent"); fixture.CheckSecrets(preview) != nil || strings.Contains(preview, "•") {
		t.Errorf("when the job is sent, the preview is %s", preview)
	}
	if left := browser.Eval[string](b, "['gitKey', 'accessTokens', 'netrc'].map((name) => document.querySelector(`[name=${name}]`).value).join('')"); left != "" {
		t.Error("the form still has a secret")
	}
}

// TestPageQueue sends two jobs with the form to a builder with one slot, and closes the page. The list shows the
// waiting job, which starts when the first ends.
func TestPageQueue(t *testing.T) {
	s := fixture.ServerWith(t, func(s *server.Settings) { s.MaxQueued = 1 })
	b := browser.OpenTab(t)
	for _, line := range []string{"sh -c 'while [ ! -e /tmp/go-on ]; do sleep 0.1; done'", "sh -c 'echo second'"} {
		sendByForm(b, s, map[string]string{"noClone": "on", "command": line})
	}
	b.UntilText("#verdict", "waiting")
	b.UntilText("#numbers", "no job ahead")
	b.CheckAccess()
	list := browser.OpenTab(t)
	list.Open("http://" + s.Address)
	list.Until("[...document.querySelectorAll('#running .word')].map((word) => word.textContent).join() === 'running,waiting'")
	list.CheckAccess()
	third := browser.OpenTab(t)
	third.Open("http://" + s.Address + "/new")
	enter(third, map[string]string{"noClone": "on", "command": "sh -c true"})
	third.Expect("429") // the browser itself logs it
	third.Click("#submit")
	third.UntilText("#refusal", "A build job is already running.")
	third.UntilText("#refusal a", "go-on")
	if err := fixture.AwaitEngine(s.Host, time.Minute, func() bool { return len(s.JobContainers(t)) == 1 }); err != nil {
		t.Fatal(err)
	}
	fixture.GoOn(t, s)
	b.UntilText("#rows", "second")
	b.UntilText("#verdict", "succeeded")
	list.Until("!document.getElementById('running')") // the list updates without a reload
}

// TestPageRefusal sends a job that the builder refuses. The form shows the reason.
func TestPageRefusal(t *testing.T) {
	b := browser.OpenTab(t)
	b.Open("http://" + fixture.Env.Server.Address + "/new")
	b.Click("[name=noClone]")
	browser.Eval[any](b, "document.querySelector('[name=command]').value = ''")
	b.Write("[name=command]", "rm -rf /")
	b.Expect("400") // the browser itself logs it
	b.Click("#submit")
	b.UntilText("#refusal", "Invalid command: 'rm -rf /'")
	b.CheckAccess()
}

// TestPageShowsText runs a job that prints HTML and control sequences.
func TestPageShowsText(t *testing.T) {
	s := fixture.ServerWith(t, func(*server.Settings) {})
	const html = `<img src=x onerror=alert(1)><script>document.title="gone"</script>&amp;`
	lines := []string{
		html,
		`\033[1;31mred\033[0m \033[38;5;196m256\033[0m \033[38;2;1;200;3mtrue\033[0m \033[7minverse\033[0m`,
		`\033]0;title\007\033[2J\033[10;10Hmoved\033[?1049h\033Pq#0\033\\\\ back\007\010`,
		`\033]8;;javascript:alert(2)\033\\\\link\033]8;;\033\\\\`,
	}
	r := fixture.Do(t, s, fixture.Command(`sh -c 'printf "`+strings.ReplaceAll(strings.Join(lines, `\n`), `"`, `\"`)+`\n"'`))
	fixture.WantExit(t, r, 0)
	b := browser.OpenTab(t)
	b.Open("http://" + s.Address + "/jobs/" + fixture.NewestJob(t, s))
	b.UntilText("#rows", "link")
	got := browser.Eval[[]string](b, "[...document.querySelectorAll('.line')].map((line) => line.textContent)")
	for _, want := range []string{html, "red 256 true inverse", "moved back", "link"} {
		if !slices.Contains(got, want) {
			t.Errorf("no line is %q in %q", want, got)
		}
	}
	if n := browser.Eval[int](b, "document.querySelectorAll('.rows :is(img, script), .rows a:not(.number)').length"); n != 0 {
		t.Errorf("%d elements of the log are in the page", n)
	}
	b.CheckAccess()
	b.Look(1280, 900, "dark")
	if color := browser.Eval[string](b, "getComputedStyle([...document.querySelectorAll('.line span')].find((s) => s.textContent === 'true')).color"); color != "rgb(1, 200, 3)" {
		t.Errorf("the true colour is %s", color)
	}
}

// drain reads until the connection ends. To save time, it does not check the messages.
func drain(c *fixture.Client) {
	for _, _, err := c.Conn.ReadMessage(); err == nil; _, _, err = c.Conn.ReadMessage() {
	}
}

// TestPageFollows follows a growing log, pauses, and continues.
func TestPageFollows(t *testing.T) {
	s := fixture.ServerWith(t, func(*server.Settings) {})
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command(`sh -c 'for i in $(seq 1000); do seq -f "burst $i: %g" 20; sleep 0.05; done'`)))
	c.WaitFor("burst 9: 1")
	ended := make(chan struct{})
	go func() { // answers pings
		defer close(ended)
		drain(c)
	}()
	b := browser.OpenTab(t)
	b.Open("http://" + s.Address)
	b.UntilText("#rows", ": 20")
	b.Do(chromedp.Focus(chromedp.CSS("#view")))
	b.Press(kb.PageUp)
	b.Until("document.getElementById('follow').getAttribute('aria-pressed') === 'false'")
	b.AwaitDrawn()
	before := browser.Eval[string](b, "document.querySelector('.row .number').textContent")
	selected := browser.Eval[string](b, "getSelection().selectAllChildren(document.querySelector('.row .line')), String(getSelection())")
	const height = "document.getElementById('view').scrollHeight"
	b.Until("(window.heightBefore ??= " + height + ") < " + height) // the log has grown
	if now := browser.Eval[string](b, "document.querySelector('.row .number').textContent"); now != before {
		t.Errorf("paused, it went on from line %s to %s", before, now)
	}
	if still := browser.Eval[string](b, "String(getSelection())"); still != selected || selected == "" {
		t.Errorf("while the log grew, the selected text went from %q to %q", selected, still)
	}
	b.Click("#follow")
	b.Until("Number(document.querySelector('.row .number').textContent) > " + before + " + 40")
	c.Conn.Close()
	<-ended
}

// TestPageToken signs in.
func TestPageToken(t *testing.T) {
	s := fixture.ServerWith(t, func(s *server.Settings) { s.TokenFile = fixture.TokenFile(t, fixture.GoodToken) })
	b := browser.OpenTab(t)
	b.Expect("401") // the answer to a wrong token: the browser itself logs it
	b.Open("http://" + s.Address + "/new")
	b.UntilText("h1", "Sign in")
	b.Write("[name=token]", "not-the-token-at-all"+kb.Enter)
	b.UntilText("[role=alert]", "not this builder's token")
	b.CheckAccess()
	b.Write("[name=token]", fixture.GoodToken+kb.Enter)
	b.UntilText("h1", "New job")
	if cookies := browser.Eval[string](b, "document.cookie"); cookies != "" {
		t.Errorf("scripts can read the cookies %s", cookies)
	}
	job := sendByForm(b, s, map[string]string{"noClone": "on", "command": "sh -c 'echo signed in'"})
	job.UntilText("#rows", "signed in")
	job.UntilText("#verdict", "succeeded")
	job.Click("header form button")
	job.UntilText("h1", "Sign in")
	job.Open("http://" + s.Address)
	job.UntilText("h1", "Sign in")
	if strings.Contains(s.Log.String(), fixture.GoodToken) {
		t.Error("the token is in the log")
	}
}
