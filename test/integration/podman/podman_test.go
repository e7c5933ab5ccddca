//go:build integration

package podman

import (
	"slices"
	"strings"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/test/kit/fixture"
)

// TestBuildAndPush builds from a private repository and pushes. The same job again uses the kept store: nothing is
// built and nothing is uploaded.
func TestBuildAndPush(t *testing.T) {
	t.Parallel()
	e := fixture.OnPodman(t)
	s := e.Server(t, func(s *server.Settings) { s.Store = stores.Repository })
	cache := fixture.NewCache(t)
	g := &fixture.Env.Git
	j := cache.Pushing(g.WithKey(fixture.Build(g.Private+"/hello", "nix build -L --print-out-paths"), fixture.GitPassword))

	first := fixture.Do(t, s, j)
	fixture.WantExit(t, first, 0)
	fixture.WantLine(t, first, fixture.Hello)
	fixture.WantTotal(t, first, 1, 0, 0)
	second := fixture.Do(t, s, j)
	fixture.WantExit(t, second, 0)
	if slices.ContainsFunc(second.Lines, func(line string) bool { return strings.Contains(line, fixture.Hello) }) {
		t.Error("the second job built it again")
	}
	fixture.WantTotal(t, second, 0, 1, 0)
}

// TestExitCodes runs jobs that fail, are cancelled by their clients, and run out of memory.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	e := fixture.OnPodman(t)
	s := e.Server(t, func(s *server.Settings) { s.Limits.Memory = orchestrator.Amount{Fixed: 128 << 20} })
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("sh -c 'exit 42'")), 42)

	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command("sh -c 'echo begun; sleep 1000'")))
	c.WaitFor(`"begun"`)
	c.Conn.NetConn().Close()
	fixture.WantFree(t, s)
	fixture.WantNoContainers(t, s)

	// The shell keeps everything that it reads in memory.
	got := fixture.Do(t, s, fixture.Command(`sh -c 'x=$(head -c 500000000 /dev/zero | tr "\\0" x)'`))
	if len(got.Messages) != 2 || !strings.Contains(got.Messages[1], fixture.OutOfMemory) {
		t.Errorf("out of memory: %v", got.Messages)
	}
}
