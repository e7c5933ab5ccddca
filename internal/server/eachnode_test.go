package server

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/test/kit/memengine"
)

// A closable engine records that it was closed.
type closable struct {
	*memengine.Engine
	closed bool
}

func (c *closable) Close() error {
	c.closed = true
	return nil
}

func (c *closable) RemoveUnused(context.Context, func(kind, name string)) error { return nil }

// TestOpenNodes opens nodes: one with two addresses, two with the same name, one that does not answer, and one
// whose name is unknown.
func TestOpenNodes(t *testing.T) {
	var mu sync.Mutex
	opened := make(map[string]*closable)
	open := func(address string) (orchestrator.Unused, error) {
		host, _, _ := strings.Cut(address, ":")
		c := &closable{Engine: memengine.New(nil)}
		c.Machine.ID, c.Machine.Name = "id/"+host, "node-"+host
		switch host {
		case "2", "3":
			c.Machine.Name = "twin"
		case "alias":
			c.Machine.ID, c.Machine.Name = "id/1", "node-1"
		case "away":
			c.Fail = func(string) error {
				return &engine.Failure{End: jobend.EngineGone, What: "It does not answer.", Advice: "Set DOCKER_HOST.", Cause: errors.New("connection refused")}
			}
		case "odd":
			return nil, errors.New("it is no address")
		}
		mu.Lock()
		defer mu.Unlock()
		opened[host] = c
		return c, nil
	}
	known := names{"tasks": {"3", "2"}, "one": {"1"}, "alias": {"alias"}, "away": {"away"}, "odd": {"odd"}}
	nodes, err := openNodes(t.Context(), known, []string{"tasks:1", "one:1", "alias:1", "away:1", "gone:1", "odd:1"}, stores.Options{Folder: "stores"}, open)
	var failed []string
	for line := range strings.Lines(err.Error()) {
		failed = append(failed, strings.TrimSpace(line))
	}
	var got []string
	for _, n := range nodes {
		got = append(got, n.Name+" "+filepath.ToSlash(n.Stores.Folder))
	}
	if diff := cmp.Diff([]string{"node-1 stores/nodes/id_1", "twin (2:1) stores/nodes/id_2", "twin (3:1) stores/nodes/id_3"}, got); diff != "" {
		t.Errorf("the nodes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"node gone:1: the name resolves to no address", "node away:1: It does not answer. (connection refused)", "node odd:1: it is no address"}, failed); diff != "" {
		t.Errorf("the errors (-want +got):\n%s", diff)
	}
	if !opened["away"].closed || opened["1"].closed == opened["alias"].closed || opened["2"].closed {
		t.Error("the wrong engines are closed")
	}
}

// TestOpenNodesNeedsKeys reads settings with nodes and without keys.
func TestOpenNodesNeedsKeys(t *testing.T) {
	if _, err := (&Settings{Nodes: []string{"node:1"}}).OpenNodes(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "IGLU_AGENT_KEYS is not") {
		t.Errorf("without keys: %v", err)
	}
}
