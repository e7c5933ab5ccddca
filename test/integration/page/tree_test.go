//go:build integration

package page

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/browser"
	"iglu.sh/builder/test/kit/fixture"
)

// treeText is a script that returns the tree on the page as text: a line for each derivation with its state,
// indented below its parent, and the text of other items.
const treeText = `(() => {
  const lines = (list, indent) => [...list.children].flatMap((item) => item.querySelector(".name")
    ? [indent + item.querySelector(".name").textContent + " " + item.querySelector(".how").textContent, ...lines(item.querySelector("ul"), indent + "  ")]
    : [indent + item.textContent]);
  return lines(document.getElementById("derivations-list"), "");
})()`

// TestPageTree builds a diamond of derivations, of which the last fails. It checks the tree during the build and
// after it.
func TestPageTree(t *testing.T) {
	s := fixture.ServerWith(t, func(*server.Settings) {})
	files := maps.Clone(fixture.Diamond)
	files["default.nix"] = strings.ReplaceAll(files["default.nix"], `script ? "echo > $out"`,
		`script ? "PATH=/nix/var/nix/profiles/default/bin:/usr/bin:/bin; [ $name != base ] || while [ ! -e /tmp/go-on ]; do sleep 0.1; done; [ $name != right ] && echo > $out"`)
	if err := fixture.Env.Git.Commit("diamond-failing", "main", files); err != nil {
		t.Fatal(err)
	}
	form := browser.OpenTab(t)
	b := sendByForm(form, s, map[string]string{"repository": fixture.Env.Git.Public + "/diamond-failing", "command": "nix build -L --keep-going --max-jobs 1"})
	b.Until(fmt.Sprintf("%s.some((line) => line.endsWith('base building'))", treeText))
	tree := browser.Eval[[]string](b, treeText)
	if len(tree) != 4 || tree[0] != "top waiting" || !slices.Contains(tree, "    base building") ||
		!slices.Contains(tree, "  left waiting") || !slices.Contains(tree, "  right waiting") {
		t.Errorf("at first, the tree is %q", tree)
	}
	b.UntilText("#phases [aria-current=step]", "Build")
	b.UntilText("#numbers", "0 of 4 built · 1 building")
	b.Until("document.getElementById('bar').max === 4 && document.getElementById('bar').hasAttribute('value')")
	b.CheckAccess()
	before := browser.Eval[string](b, "document.querySelector('.took:not(:empty)').textContent")
	b.Until(fmt.Sprintf("document.querySelector('.took:not(:empty)').textContent !== %q", before)) // the time is updated
	fixture.GoOn(t, s)
	b.UntilText("#verdict", "failed")
	b.Until(treeText + ".includes('top not built')")
	tree = browser.Eval[[]string](b, treeText)
	base := slices.IndexFunc(tree, func(line string) bool { return line == "  base built" || line == "    base built" })
	if len(tree) != 4 || tree[0] != "right failed" || base < 0 || !slices.Contains(tree, "  left built") {
		t.Errorf("at the end, the tree is %q", tree)
	}
	b.UntilText("#derivations pre", "right begins")
	b.UntilText(".node:has(.failed) .took", "top needs it")
	b.CheckAccess()

	// Each derivation has its own log.
	b.Click(".node:has(.failed) .name")
	b.UntilText("#derivation[open] #derivation-text", "right begins")
	b.Press(kb.Escape)
	b.Until("!document.querySelector('#derivation').open")

	// With the keyboard, an item can be closed and opened again.
	above := tree[base-1]
	name := strings.Fields(above)[0]
	button := fmt.Sprintf("[aria-label='What %s needs']", name)
	b.Do(chromedp.Focus(chromedp.CSS(button)))
	b.Press(kb.Enter)
	b.Until(fmt.Sprintf("document.querySelector(%q).ariaExpanded === 'false' && !document.querySelector('#derivations').textContent.includes('base')", button))
	b.Press(" ")
	b.Until(fmt.Sprintf("document.activeElement === document.querySelector(%q) && document.querySelector('#derivations').textContent.includes('base')", button))
}
