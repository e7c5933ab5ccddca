package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/test/kit/memengine"
)

// A nodeEngine has stores, and a network that can be removed.
type nodeEngine struct {
	*memengine.Engine
	network string
}

func (e *nodeEngine) RemoveUnused(_ context.Context, removed func(kind, name string)) error {
	removed("network", e.network)
	return nil
}

// nodeWith returns a node with a store for each repository, which has its name.
func nodeWith(t *testing.T, name string, repositories ...string) server.Node {
	t.Helper()
	e := &nodeEngine{memengine.New(nil), "net-" + name}
	for _, r := range repositories {
		v := engine.Volume{Name: "store-" + r, Labels: map[string]string{engine.LabelStore: r, "sh.iglu.builder.image": "nix:1"}}
		if err := e.Volumes().Create(t.Context(), v); err != nil {
			t.Fatal(err)
		}
	}
	return server.Node{Name: name, Engine: e, Stores: stores.Options{Instance: "test", Folder: t.TempDir()}}
}

// broken returns a node whose calls all fail.
func broken(n server.Node) server.Node {
	n.Engine.(*nodeEngine).Fail = func(string) error { return errors.New("it is on fire") }
	return n
}

// TestStoresOfNodes lists and removes stores on several nodes. One of them fails.
func TestStoresOfNodes(t *testing.T) {
	pools, err := poolsOf(t.Context(), []server.Node{nodeWith(t, "n1", "a", "b"), broken(nodeWith(t, "n2", "a")), nodeWith(t, "n3", "a")})
	if err == nil || err.Error() != "node n2: it is on fire" {
		t.Errorf("the stores of n2: %v", err)
	}
	var out bytes.Buffer
	if err := printStores(&out, pools); err != nil {
		t.Fatal(err)
	}
	const want = `NAME     NODE  REPOSITORY  IMAGE  SIZE  LAST USED  JOB
store-a  n1    a           nix:1  ?     ?          -
store-b  n1    b           nix:1  ?     ?          -
store-a  n3    a           nix:1  ?     ?          -
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("the table (-want +got):\n%s", diff)
	}
	out.Reset()
	if err := removeStores(t.Context(), pools, []string{"store-a", "store-x"}, false, &out); err == nil || !strings.HasPrefix(err.Error(), "there is no store store-x\nhint: ") {
		t.Errorf("of a store that there is not: %v", err)
	}
	if want := "removed store store-a on node n1\nremoved store store-a on node n3\n"; out.String() != want {
		t.Errorf("removing one: %q, want %q", out.String(), want)
	}

	one, err := poolsOf(t.Context(), []server.Node{nodeWith(t, "", "a")})
	if err != nil {
		t.Fatal(err)
	}
	out.Reset()
	printStores(&out, one)
	if err := removeStores(t.Context(), one, nil, true, &out); err != nil {
		t.Error(err)
	}
	const alone = `NAME     REPOSITORY  IMAGE  SIZE  LAST USED  JOB
store-a  a           nix:1  ?     ?          -
removed store store-a
`
	if diff := cmp.Diff(alone, out.String()); diff != "" {
		t.Errorf("with one engine (-want +got):\n%s", diff)
	}
}

// TestCleanUpOfNodes cleans up on several nodes. One of them fails.
func TestCleanUpOfNodes(t *testing.T) {
	var out bytes.Buffer
	err := cleanUp(t.Context(), []server.Node{nodeWith(t, "n1"), broken(nodeWith(t, "n2")), nodeWith(t, "n3")}, &out)
	if err == nil || err.Error() != "node n2: it is on fire" {
		t.Errorf("it fails as %v", err)
	}
	if want := "removed network net-n1 on node n1\nremoved network net-n3 on node n3\n"; out.String() != want {
		t.Errorf("it says %q, want %q", out.String(), want)
	}
}

// TestNodesThatCannotBeReached runs the commands with nodes that do not answer.
func TestNodesThatCannotBeReached(t *testing.T) {
	keys := t.TempDir()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"agent", "keys", keys}, nil, &stdout, &stderr); code != 0 {
		t.Fatalf("%d: %s", code, &stderr)
	}
	for _, command := range []string{"stores", "cleanup"} {
		stdout.Reset()
		stderr.Reset()
		code := run(t.Context(), []string{command, "--nodes", "127.0.0.1:1,localhost:2", "--agent-keys", keys + "/server"}, nil, &stdout, &stderr)
		if code != 1 || stdout.Len() > 0 || !strings.Contains(stderr.String(), "node 127.0.0.1:1: The container engine does not answer. (") || !strings.Contains(stderr.String(), ":2: The container engine") {
			t.Errorf("%s: %d: %q, %q", command, code, &stdout, &stderr)
		}
	}
}
