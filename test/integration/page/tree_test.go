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
	"iglu.sh/builder/test/kit/fixture"
)

// treeText returns the tree as a page shows it: a line for each derivation, indented below
// the one that it stands under, with its state, and of other items their text.
const treeText = `(() => {
  const lines = (list, indent) => [...list.children].flatMap((item) => item.querySelector(".name")
    ? [indent + item.querySelector(".name").textContent + " " + item.querySelector(".how").textContent, ...lines(item.querySelector("ul"), indent + "  ")]
    : [indent + item.textContent]);
  return lines(document.getElementById("derivations-list"), "");
})()`

// TestPageTree builds a diamond, of which one fails when the others are built, and looks at
// the tree while it is built and when it has ended.
func TestPageTree(t *testing.T) {
	s := fixture.ServerWith(t, func(*server.Settings) {})
	files := maps.Clone(fixture.Diamond)
	files["default.nix"] = strings.ReplaceAll(files["default.nix"], `script ? "echo > $out"`,
		`script ? "PATH=/nix/var/nix/profiles/default/bin:/usr/bin:/bin; [ $name != base ] || while [ ! -e /tmp/go-on ]; do sleep 0.1; done; [ $name != right ] && echo > $out"`)
	if err := fixture.Env.Git.Commit("diamond-failing", "main", files); err != nil {
		t.Fatal(err)
	}
	form := openTab(t)
	b := sendByForm(form, s, map[string]string{"repository": fixture.Env.Git.Public + "/diamond-failing", "command": "nix build -L --keep-going --max-jobs 1"})
	b.until(fmt.Sprintf("%s.some((line) => line.endsWith('base building'))", treeText))
	tree := eval[[]string](b, treeText)
	if len(tree) != 4 || tree[0] != "top waiting" || !slices.Contains(tree, "    base building") ||
		!slices.Contains(tree, "  left waiting") || !slices.Contains(tree, "  right waiting") {
		t.Errorf("at first, the tree is %q", tree)
	}
	b.untilText("#phases [aria-current=step]", "Build")
	b.untilText("#numbers", "0 of 4 built · 1 building")
	b.until("document.getElementById('bar').max === 4 && document.getElementById('bar').hasAttribute('value')")
	b.checkAccess()
	before := eval[string](b, "document.querySelector('.took:not(:empty)').textContent")
	b.until(fmt.Sprintf("document.querySelector('.took:not(:empty)').textContent !== %q", before)) // time goes on
	fixture.GoOn(t, s)
	b.untilText("#verdict", "failed")
	b.until(treeText + ".includes('top not built')")
	tree = eval[[]string](b, treeText)
	base := slices.IndexFunc(tree, func(line string) bool { return line == "  base built" || line == "    base built" })
	if len(tree) != 4 || tree[0] != "right failed" || base < 0 || !slices.Contains(tree, "  left built") {
		t.Errorf("at the end, the tree is %q", tree)
	}
	b.untilText("#derivations pre", "right begins")
	b.untilText(".node:has(.failed) .took", "top needs it")
	b.checkAccess()

	// Whoever has a keyboard closes what is below one, and opens it again.
	above := tree[base-1]
	name := strings.Fields(above)[0]
	button := fmt.Sprintf("[aria-label='What %s needs']", name)
	b.do(chromedp.Focus(chromedp.CSS(button)))
	b.press(kb.Enter)
	b.until(fmt.Sprintf("document.querySelector(%q).ariaExpanded === 'false' && !document.querySelector('#derivations').textContent.includes('base')", button))
	b.press(" ")
	b.until(fmt.Sprintf("document.activeElement === document.querySelector(%q) && document.querySelector('#derivations').textContent.includes('base')", button))
}
