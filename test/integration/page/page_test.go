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
	"iglu.sh/builder/test/kit/fixture"
)

// sendByForm fills in the form and submits it. It returns the tab of the job's page.
func sendByForm(b *tab, s *fixture.Server, fields map[string]string) *tab {
	b.t.Helper()
	b.open("http://" + s.Address + "/new")
	return fillIn(b, fields)
}

func fillIn(b *tab, fields map[string]string) *tab {
	b.t.Helper()
	enter(b, fields)
	return b.next("/jobs/", func() { b.click("#submit") })
}

// enter fills in fields of the form.
func enter(b *tab, fields map[string]string) {
	b.t.Helper()
	for name, text := range fields {
		selector := fmt.Sprintf("[name=%s]", name)
		if text == "on" {
			b.click(selector)
			continue
		}
		eval[any](b, fmt.Sprintf("document.querySelector(%q).value = ''", selector))
		b.write(selector, text)
	}
}

// TestPage does what a person does with the page: sends examples/hello, sees its log, loads
// its page again while another job runs, cancels that, and opens both when they have ended.
func TestPage(t *testing.T) {
	s := fixture.ServerWith(t, func(*server.Settings) {})
	home := openTab(t)
	home.open("http://" + s.Address)
	home.untilText("#idle", "Nothing runs")
	home.checkAccess()

	form := home
	form.open("http://" + s.Address + "/new")
	form.checkAccess()
	job := sendByForm(form, s, map[string]string{"repository": fixture.Env.Git.Public + "/hello", "command": "nix build -L"})
	job.untilText("#rows", "building hello")
	job.untilText("#verdict", "succeeded")
	for _, fact := range []string{"Fetch the source", "Build", "Most memory", "CPU time", "Commit"} {
		job.untilText("#facts", fact)
	}
	job.untilText("#job .commit", fixture.Head(t, fixture.Build(fixture.Env.Git.Public+"/hello", ""))[:7])
	job.checkAccess()
	form.untilText("#sent", "The job has succeeded")
	form.checkAccess()

	slow := sendByForm(form, s, map[string]string{"noClone": "on",
		"command": `sh -c 'for i in $(seq 3000); do echo tick $i; sleep 0.1; done'`})
	const ticks = `/tick \d/.test(document.getElementById("rows").textContent)` // not only the command that says so
	slow.until(ticks)
	slow.checkAccess()
	const last = "Math.max(...[...document.querySelectorAll('.row .number')].map((number) => number.textContent))"
	seen := eval[int](slow, last)
	slow.do(chromedp.Reload())
	slow.until(ticks)
	slow.until(fmt.Sprintf("%s > %d", last, seen+5))
	slow.untilText("#verdict", "running")

	// Whoever looks at the page of all jobs sees the same, and may end it.
	other := openTab(t)
	other.open("http://" + s.Address)
	other.until(ticks)
	other.checkAccess()
	other.click("#cancel")
	other.checkAccess() // of the question, too
	other.click("#sure button[value=no]")
	other.click("#cancel")
	other.click("#sure-yes")
	for _, b := range []*tab{slow, other} {
		b.untilText("#verdict", "cancelled")
		b.untilText("#status", "Somebody cancelled it on the builder's page.")
	}
	form.untilText("#sent", "Somebody cancelled it")

	// At once: the list is made anew now and then.
	eval[any](other, `document.querySelector(".list a[href^='/jobs/']:has(.good)").click()`)
	other.untilText("#rows", "building hello")
	other.untilText("#verdict", "succeeded")
	other.expected = "404" // which a browser says of by itself
	other.open("http://" + s.Address + "/jobs/nosuchjob")
	other.untilText("main", "no such page")
	other.checkAccess()
}

// TestPageSecrets fills in secrets: the form shows dots, and forgets them when they are sent.
func TestPageSecrets(t *testing.T) {
	s := fixture.ServerWith(t, func(*server.Settings) {})
	b := openTab(t)
	b.open("http://" + s.Address + "/new")
	b.click("fieldset summary")
	enter(b, map[string]string{"repository": fixture.Env.Git.Private + "/hello", "command": "nix build -L",
		"gitUsername": fixture.GitUser, "gitKey": fixture.GitPassword})
	var shown fixture.Job
	preview := eval[string](b, "document.getElementById('preview').textContent")
	if err := json.Unmarshal([]byte(preview), &shown); err != nil {
		t.Fatalf("%v: %s", err, preview)
	}
	want := fixture.Build(fixture.Env.Git.Private+"/hello", "nix build -L")
	want.Git.GitUsername, want.Git.RequiresAuth, want.Git.GitKey = fixture.GitUser, true, strings.Repeat("•", 12)
	if diff := cmp.Diff(want, shown); diff != "" {
		t.Errorf("the preview (-want +got):\n%s", diff)
	}
	b.checkAccess()
	job := b.next("/jobs/", func() { b.click("#submit") })
	if preview := eval[string](b, "document.getElementById('preview').textContent"); fixture.CheckSecrets(preview) != nil || strings.Contains(preview, "•") {
		t.Errorf("when the job is sent, the preview is %s", preview)
	}
	job.untilText("#verdict", "succeeded")
	if left := eval[string](b, "document.querySelector('[name=gitKey]').value"); left != "" {
		t.Error("the form still has the key")
	}
	if html := eval[string](job, "document.documentElement.outerHTML"); fixture.CheckSecrets(html) != nil {
		t.Error("the key stands in the job's page")
	}
}

// TestPageRefusal has the builder refuse a job: the form says why.
func TestPageRefusal(t *testing.T) {
	b := openTab(t)
	b.open("http://" + fixture.Env.Server.Address + "/new")
	b.click("[name=noClone]")
	eval[any](b, "document.querySelector('[name=command]').value = ''")
	b.write("[name=command]", "rm -rf /")
	b.click("#submit")
	b.untilText("#refusal", "Invalid command: 'rm -rf /'")
	b.checkAccess()
}

// TestPageShowsText has a job print what a browser or a terminal would act on.
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
	b := openTab(t)
	b.open("http://" + s.Address + "/jobs/" + fixture.NewestJob(t, s))
	b.untilText("#rows", "link")
	got := eval[[]string](b, "[...document.querySelectorAll('.line')].map((line) => line.textContent)")
	for _, want := range []string{html, "red 256 true inverse", "moved back", "link"} {
		if !slices.Contains(got, want) {
			t.Errorf("no line is %q in %q", want, got)
		}
	}
	if n := eval[int](b, "document.querySelectorAll('.rows :is(img, script), .rows a:not(.number)').length"); n != 0 {
		t.Errorf("%d elements of the log are in the page", n)
	}
	b.checkAccess()
	b.look(1280, 900, "dark")
	if color := eval[string](b, "getComputedStyle([...document.querySelectorAll('.line span')].find((s) => s.textContent === 'true')).color"); color != "rgb(1, 200, 3)" {
		t.Errorf("the true colour is %s", color)
	}
}

// drain reads until the connection ends, and looks at nothing: that takes time.
func drain(c *fixture.Client) {
	for _, _, err := c.Conn.ReadMessage(); err == nil; _, _, err = c.Conn.ReadMessage() {
	}
}

// TestPageFollows sees a log grow, pauses, and goes on.
func TestPageFollows(t *testing.T) {
	s := fixture.ServerWith(t, func(*server.Settings) {})
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command(`sh -c 'for i in $(seq 1000); do seq -f "burst $i: %g" 20; sleep 0.05; done'`)))
	c.WaitFor("burst 9: 1")
	ended := make(chan struct{})
	go func() { // so that it answers pings
		defer close(ended)
		drain(c)
	}()
	b := openTab(t)
	b.open("http://" + s.Address)
	b.untilText("#rows", ": 20")
	b.do(chromedp.Focus(chromedp.CSS("#view")))
	b.press(kb.PageUp)
	b.until("document.getElementById('follow').getAttribute('aria-pressed') === 'false'")
	time.Sleep(time.Second) // for the scrolling
	before := eval[string](b, "document.querySelector('.row .number').textContent")
	selected := eval[string](b, "getSelection().selectAllChildren(document.querySelector('.row .line')), String(getSelection())")
	time.Sleep(time.Second)
	if now := eval[string](b, "document.querySelector('.row .number').textContent"); now != before {
		t.Errorf("paused, it went on from line %s to %s", before, now)
	}
	if still := eval[string](b, "String(getSelection())"); still != selected || selected == "" {
		t.Errorf("while the log grew, the selected text went from %q to %q", selected, still)
	}
	b.click("#follow")
	b.until("Number(document.querySelector('.row .number').textContent) > " + before + " + 40")
	c.Conn.Close()
	<-ended
}

// TestPageToken signs in.
func TestPageToken(t *testing.T) {
	s := fixture.ServerWith(t, func(s *server.Settings) { s.TokenFile = fixture.TokenFile(t, fixture.GoodToken) })
	b := openTab(t)
	b.expected = "401" // the answer to a wrong token, which a browser says of by itself
	b.open("http://" + s.Address + "/new")
	b.untilText("h1", "Sign in")
	b.checkAccess()
	b.write("[name=token]", "not-the-token-at-all"+kb.Enter)
	b.untilText("[role=alert]", "not this builder's token")
	b.checkAccess()
	b.write("[name=token]", fixture.GoodToken+kb.Enter)
	b.untilText("h1", "New job")
	if cookies := eval[string](b, "document.cookie"); cookies != "" {
		t.Errorf("scripts see %s", cookies)
	}
	job := sendByForm(b, s, map[string]string{"noClone": "on", "command": "sh -c 'echo signed in'"})
	job.untilText("#rows", "signed in")
	job.untilText("#verdict", "succeeded")
	job.click("header form button")
	job.untilText("h1", "Sign in")
	job.open("http://" + s.Address)
	job.untilText("h1", "Sign in")
	if strings.Contains(s.Log.String(), fixture.GoodToken) {
		t.Error("the token stands in the log")
	}
}
