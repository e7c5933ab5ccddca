//go:build integration

package page

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/web"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/browser"
	"iglu.sh/builder/wsapi"
	"iglu.sh/builder/wsapi/auth"
)

// guarded returns the pages behind a token.
func (k *kept) guarded(token string) http.Handler {
	log := slog.New(slog.DiscardHandler)
	pages := web.New(k.records, k.logs, &k.builder, web.Options{Commands: []string{"nix"}, ClientTimeout: time.Minute, Token: true}, log)
	k.t.Cleanup(pages.Close)
	return wsapi.NewServer(nil, wsapi.Options{Page: pages, Auth: auth.Options{Token: token}}, log)
}

// TestBelowPath uses a builder with a token that is below a path of a proxy. The proxy removes the path, so that the
// builder does not know it. A link to a line leads there through the login form, even after a wrong token.
func TestBelowPath(t *testing.T) {
	k := serveKept(t)
	k.putLong("long")
	const token = "a-token-of-this-test"
	proxy := httptest.NewServer(http.StripPrefix("/builder", k.guarded(token)))
	t.Cleanup(proxy.Close)
	b := browser.OpenTab(t)
	b.Expect("401")
	b.Open(proxy.URL + "/builder/jobs/long#L1500")
	for _, entered := range []string{"not-the-token-of-this-test", token} {
		arrive(b, "/builder/login", "document.querySelector('[name=next]').value === '/jobs/long#L1500'")
		b.Write("[name=token]", entered)
		b.Click(".login button")
		if entered != token {
			b.UntilText(".login .error", "not this builder's token")
		}
	}
	b.UntilText(".row.chosen", "block 1496 of")
	b.UntilText("#derivations-count", "2")
	arrive(b, "/builder/jobs/long", "getComputedStyle(document.querySelector('.bar')).display === 'flex'")
	b.Click("#derivations-list .name")
	b.Until("document.getElementById('derivation').open && document.getElementById('derivation-raw').pathname.startsWith('/builder/api/v1/jobs/long/derivations/')")

	b.Open(proxy.URL + "/builder/jobs/long")
	b.Click("#run-again")
	b.UntilText("#from", "As in job long.")
	arrive(b, "/builder/new", "document.querySelector('[name=command]').value.startsWith('nix build -L')")
	b.Click(".brand")
	arrive(b, "/builder/", "document.querySelector('#jobs .list a')")
	b.Click("#jobs .repositories a")
	arrive(b, "/builder/", "location.search && document.querySelector('.badges img').complete && document.querySelector('.badges img').naturalWidth > 0")

	running := history.Record{Job: "running", Command: "nix build .#slow", Started: time.Now()}
	l := k.begin(running)
	b.Open(proxy.URL + "/builder/")
	b.Until("document.getElementById('job').dataset.job === 'running'")
	tell(l, schemas.PhaseEvent{Phase: schemas.Build}, "the last line")
	b.UntilText("#rows", "the last line")
	k.end(l, running, schemas.Exited(0))
	b.UntilText("#verdict", "succeeded")
	b.Click("nav form button")
	arrive(b, "/builder/login", "true")
}

// arrive waits until a tab has loaded the page at a path, and an expression is true there.
func arrive(b *browser.Tab, path, isTrue string) {
	b.T.Helper()
	b.Until(fmt.Sprintf("location.pathname === %q && document.readyState === 'complete' && %s", path, isTrue))
}

// TestFirstCommand looks at the page of a builder without jobs: the command that it shows has the builder's address.
func TestFirstCommand(t *testing.T) {
	k := serveKept(t)
	proxy := httptest.NewServer(http.StripPrefix("/builder", k.pages))
	t.Cleanup(proxy.Close)
	b := browser.OpenTab(t)
	for page, address := range map[string]string{k.url + "/": k.url, proxy.URL + "/builder/": proxy.URL + "/builder"} {
		b.Open(page)
		want := "iglu-builder build --url ws" + strings.TrimPrefix(address, "http") + " --repo https://github.com/iglu-sh/builder"
		b.Until(fmt.Sprintf("document.querySelector('#command pre').textContent === %q && document.querySelector('#command button').dataset.copy === %[1]q", want))
	}
}

// TestTokenChanges looks at pages while the builder restarts with another token: they ask for it, and do not go on
// showing what was there before.
func TestTokenChanges(t *testing.T) {
	k := serveKept(t)
	const token = "a-token-of-this-test"
	running := history.Record{Job: "running", Command: "nix build", Started: time.Now()}
	l := k.begin(running)
	tell(l, schemas.PhaseEvent{Phase: schemas.Build}, "a line")
	for _, path := range []string{"/", "/jobs/running", "/?state=failed"} {
		var builder atomic.Value
		builder.Store(k.guarded(token))
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { builder.Load().(http.Handler).ServeHTTP(w, r) }))
		t.Cleanup(server.Close)
		b := browser.OpenTab(t)
		b.Expect("Failed to load resource")
		b.Open(server.URL + path)
		b.Write("[name=token]", token)
		b.Click(".login button")
		b.Until("document.getElementById('job') || document.getElementById('jobs')")
		if path != "/?state=failed" {
			b.UntilText("#rows", "a line")
		}
		b.Until("performance.getEntriesByType('resource').some(({ name }) => name.includes('/api/v1/jobs'))") // its script runs
		builder.Store(k.guarded("another-" + token))
		server.CloseClientConnections()
		b.Until("location.pathname === '/login' && document.querySelector('[name=token]')")
	}
	k.end(l, running, schemas.Exited(0))
}
