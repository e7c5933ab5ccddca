//go:build integration

package page

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/browser"
)

// TestDerivationLog opens the log of a derivation that the job's log does not show: during its build, and after it
// has failed with more lines than a job's page gets.
func TestDerivationLog(t *testing.T) {
	k := serveKept(t)
	r := history.Record{Job: "one", Command: "nix build"}
	l := k.begin(r)
	drv := store("igloo-2.0")
	tell(l, schemas.DerivationEvent{Derivation: drv, State: schemas.DerivationBuilding})
	line := func(text string) { tell(l, schemas.LineEvent{Derivation: drv, Text: text}) }
	line("\x1b[31mthe line\x1b[0m that says why <img src=x>")
	b := browser.OpenTab(t)
	b.Open(k.url + "/jobs/one")
	b.UntilText(".node .name", "igloo-2.0")
	b.Click(".node .name")
	b.UntilText("#derivation[open] #derivation-text .c1", "the line")
	for n := range 60 {
		line(fmt.Sprint("another ", n))
	}
	b.UntilText("#derivation-text", "another 59") // as it is printed
	b.CheckAccess()
	b.Click("#derivation .bar button")
	b.Until("!document.getElementById('derivation').open")

	for n := range 6000 {
		line(fmt.Sprint("more ", n))
	}
	tell(l, schemas.DerivationEvent{Derivation: drv, State: schemas.DerivationFailed, Log: []string{"more 5999"}})
	k.end(l, r, schemas.Exited(1))
	b.UntilText("#verdict", "failed") // the end moves what is below it, which must not happen during a click
	b.UntilText("#derivations pre", "more 5999")
	b.Click(".node:has(.failed) .name")
	b.UntilText("#derivation-note", "The last 5,000 of 6,061 lines")
	b.UntilText("#derivation-text > :last-child", "more 5999")
	b.Until(inWindow("#derivation-text > div"))
	raw := browser.Eval[string](b, "fetch(document.getElementById('derivation-raw').href).then((response) => response.text())")
	if want := "\x1b[31mthe line\x1b[0m that says why <img src=x>\nanother 0\n"; len(raw) < len(want) || raw[:len(want)] != want {
		t.Errorf("the raw log begins with %.200q", raw)
	}
}

// TestDerivationLogWithoutEnd opens the log of a derivation that prints long lines in which each character changes the style.
// The page shows only so much of it that a browser can still be used.
func TestDerivationLogWithoutEnd(t *testing.T) {
	k := serveKept(t)
	r := history.Record{Job: "one", Command: "nix build"}
	l := k.begin(r)
	drv := store("igloo-2.0")
	tell(l, schemas.DerivationEvent{Derivation: drv, State: schemas.DerivationBuilding})
	const lines = 100
	long := strings.Repeat("x\x1b[1m", 13_000)
	for range lines {
		tell(l, schemas.LineEvent{Derivation: drv, Text: long})
	}
	tell(l, schemas.DerivationEvent{Derivation: drv, State: schemas.DerivationFailed, Log: slices.Repeat([]string{long[:4000]}, 20)})
	k.end(l, r, schemas.Exited(1))
	b := browser.OpenTab(t)
	b.Open(k.url + "/jobs/one")
	b.UntilText("#verdict", "failed")
	b.UntilText("#derivations pre", "xxx")
	if n := browser.Eval[int](b, "document.querySelectorAll('#derivations pre *').length"); n > 20*20 {
		t.Errorf("the end of the log has %d elements", n)
	}
	b.Click(".node .name")
	b.UntilText("#derivation-note", fmt.Sprintf(" of %d lines", lines))
	b.UntilText("#derivation-text > :last-child", "Raw has the whole line")
	if n := browser.Eval[int](b, "document.querySelectorAll('#derivation-text *').length"); n > 60_000 {
		t.Errorf("the log has %d elements", n)
	}
}

// TestResults checks the results of a job, and copies the command that fetches them.
func TestResults(t *testing.T) {
	k := serveKept(t)
	r := history.Record{Job: "one", Command: "nix build"}
	l := k.begin(r)
	const get = "nix-store --realise /nix/store/a-igloo --option extra-substituters https://cache.example.com/default"
	tell(l, schemas.ResultsEvent{
		Results: []schemas.Result{{Installable: ".#igloo", Paths: []string{"/nix/store/a-igloo", "/nix/store/a-igloo-dev"}}, {Paths: []string{"/nix/store/b"}}},
		Pushed:  &schemas.Pushed{Paths: 1, Bytes: 2 << 20}, Target: "https://cache.example.com/default", Get: get})
	k.end(l, r, schemas.Exited(0))
	b := browser.OpenTab(t)
	b.Open(k.url + "/jobs/one")
	b.UntilText("#results", "1 path, 2.0 MiB, pushed to https://cache.example.com/default")
	if got := browser.Eval[[]string](b, "[...document.querySelectorAll('#results li')].map((item) => item.textContent)"); !slices.Equal(got, []string{"/nix/store/a-igloo.#igloo", "/nix/store/a-igloo-dev.#igloo", "/nix/store/b"}) {
		t.Errorf("the results are %q", got)
	}
	b.CheckAccess()
	browser.Eval[any](b, "navigator.clipboard.writeText = async (text) => { window.copied = text; }")
	b.Click("#results .get .copy")
	b.Until(fmt.Sprintf("window.copied === %q", get))
}
