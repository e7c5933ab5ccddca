//go:build integration

package page

import (
	"testing"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/orchestrator/nodes"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/browser"
	"iglu.sh/builder/test/kit/fixture"
)

// TestPageNodes checks the list of nodes in windows of three sizes, light and dark. While the page is open, one
// node is lost and another gets a job.
func TestPageNodes(t *testing.T) {
	k := serveKept(t)
	one := nodes.State{Name: "node-1.example.com", Up: true, Platform: "linux/amd64", CPUs: 64, Memory: 256 << 30, Slots: 4, Running: 1}
	two := one
	two.Name, two.Problem = "node-2.example.com", "The job image docker.io/nixos/nix:2.34.8 is not on the engine and cannot be pulled: the registry is on fire."
	gone := nodes.State{Name: "192.0.2.9:2376", Since: time.Now().Add(-time.Hour), Problem: "The container engine does not answer."}
	k.builder.set(gone, one, two)
	waiting := history.Record{Job: "waits", Repository: "https://github.com/iglu-sh/igloo.git", Command: "nix build"}
	log := k.begin(waiting)
	ended := history.Record{Job: "ended", Node: one.Name, Repository: "https://github.com/iglu-sh/igloo.git", Branch: "main", Command: "nix build"}
	k.end(k.begin(ended), ended, schemas.Exited(0))
	b := browser.OpenTab(t)
	for _, look := range looks[:fixture.Size(2, len(looks))] {
		b.Look(look.width, look.height, look.scheme)
		for _, path := range []string{"/", "/jobs/ended"} {
			b.Open(k.url + path)
			b.UntilText("main", one.Name)
			b.CheckLook()
		}
	}

	b.Open(k.url)
	b.UntilText("#nodes-sum", "3 nodes, 6 of 8 slots free, 1 down, 1 with a problem")
	b.UntilText("#nodes-rows", "1 hour ago")
	b.UntilText("#jobs", "on "+one.Name)
	b.Until("document.getElementById('on-node').hidden")
	tell(log, schemas.NodeEvent{Name: two.Name})
	b.UntilText("#on-node", "on node "+two.Name)
	b.Click("#nodes summary") // closes it
	one.Up, one.Since, one.Problem = false, time.Now(), "The container engine does not answer."
	k.builder.set(gone, one, two)
	b.UntilText("#nodes-sum", "3 nodes, 3 of 4 slots free, 2 down, 1 with a problem")
	if open := browser.Eval[bool](b, "document.getElementById('nodes').open"); open {
		t.Error("the closed list has opened by itself")
	}
	k.end(log, waiting, schemas.Exited(0))
}
