//go:build integration

package page

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/browser"
)

// refusalOf returns a builder's answer to a job that it refuses.
func refusalOf(t *testing.T, job string) schemas.Response {
	t.Helper()
	_, _, err := schemas.ParseRequest([]byte(job), []string{"nix"})
	refusal, ok := errors.AsType[*schemas.Refusal](err)
	if !ok {
		t.Fatalf("%s is not refused: %v", job, err)
	}
	return refusal.Response()
}

// TestFormMarks sends invalid jobs. The form marks the invalid fields until they are changed.
func TestFormMarks(t *testing.T) {
	k := serveKept(t)
	running := k.begin(history.Record{Job: "running", Command: "nix build .#slow", Started: time.Now()})
	b := browser.OpenTab(t)
	b.Expect("the server responded with a status of 4") // the browser itself logs it
	b.Open(k.url + "/new")
	b.Write("[name=repository]", "ftp://example.com/a")

	k.refusal = refusalOf(t, `{"git":{"repository":"ftp://example.com/a","noClone":false},"buildOptions":{"maxJobs":0,"command":"nix build","cachix":{"push":false}},"nix":{"accessTokens":{"no host":"x"}}}`)
	b.Click("#submit")
	b.Until("document.querySelector('[name=repository]').ariaInvalid === 'true'")
	for _, name := range []string{"repository", "maxJobs", "accessTokens"} {
		b.Until(fmt.Sprintf("(document.getElementById('wrong-%s')?.textContent ?? '').length > 5", name))
		b.Until(fmt.Sprintf("document.querySelector('[name=%s]').getAttribute('aria-describedby').endsWith('wrong-%[1]s')", name))
	}
	b.Until("document.activeElement.name === 'repository'")
	b.CheckAccess()
	b.Write("[name=repository]", "x")
	b.Until("!document.getElementById('wrong-repository') && !document.querySelector('[name=repository]').ariaInvalid")

	k.refusal = refusalOf(t, `{"git":{"noClone":true},"buildOptions":{"command":"rm -rf /","cachix":{"push":false}}}`)
	b.Click("#submit")
	b.Until("document.querySelectorAll('[aria-invalid]').length === 1 && document.activeElement.name === 'command'")
	b.UntilText("#refusal", "Invalid command: 'rm -rf /'")

	k.refusal = schemas.Busy()
	b.Click("#submit")
	b.UntilText("#refusal a", "nix build .#slow")
	b.Until("document.querySelector('#refusal a').pathname === '/jobs/running' && !document.querySelector('[aria-invalid]')")

	b.Click("[name=noClone]")
	b.Until("document.querySelector('[name=repository]').disabled")
	b.UntilText("#no-clone:not([hidden])", "not used")
	if preview := browser.Eval[string](b, "JSON.stringify(JSON.parse(document.getElementById('preview').textContent).git)"); preview != `{"noClone":true}` {
		t.Errorf("for a job without a clone, %s is sent", preview)
	}
	b.CheckAccess()
	k.end(running, history.Record{Job: "running", Command: "nix build"}, schemas.Exited(0))
}

// TestFormSaysWhy sends jobs that do not reach the builder, or that it does not read. The form says why, and stays as it
// is.
func TestFormSaysWhy(t *testing.T) {
	k := serveKept(t)
	b := browser.OpenTab(t)
	b.Expect("the server responded with a status of ")
	b.Open(k.url + "/new")
	b.Write("[name=repository]", "https://example.com/a")
	for _, test := range []struct {
		status             int
		kind, answer, want string
	}{
		{http.StatusForbidden, "text/plain; charset=utf-8", "Pages of this origin may not use the builder (IGLU_ALLOWED_ORIGINS).\n", "Pages of this origin may not use the builder (IGLU_ALLOWED_ORIGINS)."},
		{http.StatusUnauthorized, "text/plain; charset=utf-8", "The builder's token is missing or wrong.\n", "You are signed out. Sign in in another tab"},
		{http.StatusRequestEntityTooLarge, "text/html", "<html><center>nginx</center></html>", "The builder, or a proxy in front of it, answers with status 413."},
	} {
		k.answer = func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", test.kind)
			w.WriteHeader(test.status)
			io.WriteString(w, test.answer)
		}
		b.Click("#submit")
		b.UntilText("#refusal:not([hidden])", test.want)
		if got := browser.Eval[string](b, "document.querySelector('[name=repository]').value"); got != "https://example.com/a" {
			t.Errorf("status %d: the repository is %q now", test.status, got)
		}
	}
}

// TestRunAgain fills the form with an earlier job, without its secrets.
func TestRunAgain(t *testing.T) {
	k := serveKept(t)
	const job = `{"git":{"noClone":false,"repository":"https://example.com/a","branch":"main","gitUsername":"me","requiresAuth":true},` +
		`"buildOptions":{"cores":2,"maxJobs":3,"keep_going":true,"extraArgs":"-L","substituters":["https://one.example","https://two.example"],"trustedPublicKeys":["a:b"],` +
		`"command":"nix build .#x","cachix":{"push":true,"target":"https://cache.example.com/default"}},"nix":{"accessTokens":{"github.com":""}},"system":"aarch64-linux"}`
	r := history.Record{Job: "one", Repository: "https://example.com/a", Command: "nix build .#x", Request: json.RawMessage(job)}
	k.end(k.begin(r), r, schemas.Exited(1))
	signed := history.Record{Job: "signed", Command: "nix build", Secrets: []string{"netrc", "apiKey", "signingKey"}, Request: json.RawMessage(
		`{"git":{"noClone":true},"buildOptions":{"command":"nix build","cachix":{"push":true,"target":"https://cache.example.com/default"}}}`)}
	k.end(k.begin(signed), signed, schemas.Exited(0))
	lines := history.Record{Job: "lines", Request: json.RawMessage(`{"git":{"noClone":true},"buildOptions":{"command":"nix build .#a\n.#b","cachix":{"push":false}}}`)}
	k.end(k.begin(lines), lines, schemas.Exited(0))
	large := history.Record{Job: "large", Repository: "https://example.com/b", Command: "nix build " + strings.Repeat(".#a ", 5000), Request: json.RawMessage(`"` + strings.Repeat("a", 20<<10) + `"`)}
	k.end(k.begin(large), large, schemas.Exited(0))
	old := history.Record{Job: "old", Repository: "https://example.com/b", Branch: "main", Command: "nix build", Begun: time.Now()} // of an earlier version
	k.end(k.begin(old), old, schemas.Exited(0))

	b := browser.OpenTab(t)
	b.Open(k.url + "/jobs/one")
	b.Click("#run-again")
	b.UntilText("#from", "enter these again: repository's key, access tokens, cache's API key")
	shown := func() (got map[string]any) {
		if err := json.Unmarshal([]byte(browser.Eval[string](b, "document.getElementById('preview').textContent")), &got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	var want map[string]any
	if err := json.Unmarshal([]byte(job), &want); err != nil {
		t.Fatal(err)
	}
	delete(want["git"].(map[string]any), "requiresAuth") // not sent without a key
	want["colors"] = true                                // the form always sets it
	if diff := cmp.Diff(want, shown()); diff != "" {
		t.Errorf("the form (-want +got):\n%s", diff)
	}
	b.Until("document.activeElement.name === 'gitKey' && document.activeElement.checkVisibility()")
	b.CheckAccess()

	b.Open(k.url + "/new?job=signed")
	b.UntilText("#from", "enter these again: netrc, cache's API key, signing key.")
	b.Until("document.activeElement.name === 'netrc' && document.activeElement.checkVisibility()")

	b.Open(k.url + "/new?job=lines") // an input would remove the line ends, and the words would become one
	b.UntilText("#from", "As in job lines.")
	if command := shown()["buildOptions"].(map[string]any)["command"]; command != "nix build .#a\n.#b" {
		t.Errorf("the command of several lines is %q", command)
	}
	b.CheckAccess()

	b.Open(k.url + "/new?job=old")
	b.UntilText("#from", "As in job old. The builder has kept only its repository, its branch and its command.")
	if diff := cmp.Diff(map[string]any{"git": map[string]any{"noClone": false, "repository": "https://example.com/b", "branch": "main"},
		"buildOptions": map[string]any{"command": "nix build", "cachix": map[string]any{"push": false}}, "colors": true}, shown()); diff != "" {
		t.Errorf("the form of an old job (-want +got):\n%s", diff)
	}

	b.Open(k.url + "/new?job=large") // a command that is cut is another command
	b.UntilText("#from", "a part of its command: please enter the command again.")
	if command := browser.Eval[string](b, "document.querySelector('[name=command]').value"); command != "" {
		t.Errorf("the command that was cut is %q", command)
	}
	b.Expect("404")
	b.Open(k.url + "/new?job=none")
	b.UntilText("#from", "The builder no longer has job none.")
}
