package web

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/orchestrator/nodes"
)

// withNodes is a builder with nodes and no job.
type withNodes struct {
	noJobs
	nodes []nodes.State
}

func (w withNodes) Nodes() []nodes.State { return w.nodes }

// someNodes are nodes in every state.
var someNodes = []nodes.State{
	{Name: "node-1", Up: true, Platform: "linux/amd64", CPUs: 8, Memory: 16 << 30, Slots: 3, Running: 1, Stores: 2, StoreBytes: 1 << 30},
	{Name: "node-2", Up: true, Platform: "linux/amd64", CPUs: 4, Memory: 8 << 30, Slots: 3, Problem: "The job image <image> is gone."},
	{Name: "node-3", Platform: "linux/amd64", CPUs: 4, Memory: 8 << 30, Slots: 3, Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Problem: "It is away."},
	{Name: "192.0.2.9:2376", Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Problem: "It has never been there."},
}

// TestNodes checks the nodes on the page of all jobs and in the API. A builder with one engine has none.
func TestNodes(t *testing.T) {
	h := newFixture(t)
	h.put(t, history.Record{Job: "a", Node: "node-<1>", Repository: "https://example.com/a", Command: "nix build", Begun: time.Now(), Started: time.Now()})
	h.put(t, ended("b", "https://example.com/a", 1, 1, 0))
	if page := h.get("/").Body.String(); strings.Contains(page, `id="nodes"`) {
		t.Error("a builder with one engine shows nodes")
	}
	if got := h.get("/api/v1/nodes").Body.String(); got != `{"nodes":[]}`+"\n" {
		t.Errorf("the nodes of a builder with one engine are %s", got)
	}
	h.jobs = withNodes{nodes: someNodes}
	page := h.get("/").Body.String()
	for _, want := range []string{`id="nodes" open`, "4 nodes, 5 of 6 slots free, 2 down, 1 with a problem", ">node-1<", "2 of 3", "16.0 GiB", "linux/amd64",
		"The job image &lt;image&gt; is gone.", `datetime="2026-01-02T03:04:05Z"`, "It has never been there."} {
		if !strings.Contains(page, want) {
			t.Errorf("no %s in %s", want, page)
		}
	}
	if strings.Contains(h.get("/?state=failed").Body.String(), `id="nodes"`) {
		t.Error("a part of the list has the nodes, too")
	}
	answer := h.get("/api/v1/nodes")
	if want := `{"nodes":[{"name":"node-1","up":true,"platform":"linux/amd64","cpus":8,"memory":17179869184,"slots":3,"running":1,"stores":2,"storeBytes":1073741824},`; answer.Code != http.StatusOK || !strings.HasPrefix(answer.Body.String(), want) {
		t.Errorf("the API answers %d, %s", answer.Code, answer.Body)
	}
	if want := `{"name":"192.0.2.9:2376","up":false,"since":"2026-01-02T03:04:05Z","problem":"It has never been there.","slots":0,"running":0,"stores":0,"storeBytes":0}]}`; !strings.HasSuffix(answer.Body.String(), want+"\n") {
		t.Errorf("the API answers %s", answer.Body)
	}

	h.jobs = withNodes{nodes: someNodes[:1]}
	if page := h.get("/").Body.String(); strings.Contains(page, `id="nodes" open`) || !strings.Contains(page, "1 node, 2 of 3 slots free<") {
		t.Errorf("with no problem: %s", page)
	}
	h.jobs = withNodes{nodes: []nodes.State{}}
	if page := h.get("/").Body.String(); !strings.Contains(page, "none is there") {
		t.Errorf("without a node: %s", page)
	}
}

// TestNodeOfJob checks the node of a job on the job's page and in the list.
func TestNodeOfJob(t *testing.T) {
	h := newFixture(t)
	h.put(t, ended("none", "https://example.com/a", 1, 1, 0))
	on := ended("on", "https://example.com/a", 1, 1, 0)
	on.Node = "node-<1>"
	h.put(t, on)
	if list := h.get("/").Body.String(); strings.Count(list, "on node-&lt;1&gt;") != 1 {
		t.Errorf("the list: %s", list)
	}
	const shown, hidden = `<li id="on-node">on node <span>node-&lt;1&gt;</span></li>`, `<li id="on-node" hidden>`
	if page := h.get("/jobs/on").Body.String(); !strings.Contains(page, shown) {
		t.Errorf("no %s in %s", shown, page)
	}
	if page := h.get("/jobs/none").Body.String(); !strings.Contains(page, hidden) {
		t.Errorf("no %s in %s", hidden, page)
	}
	if record := h.get("/api/v1/jobs/none").Body.String(); strings.Contains(record, "node") {
		t.Errorf("the record of a job without a node is %s", record)
	}
}
