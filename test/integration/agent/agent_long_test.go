//go:build integration && long

package agent

import (
	"fmt"
	"testing"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestMillionLines sends them through an agent: each arrives, once and in its turn.
func TestMillionLines(t *testing.T) { fixture.OnEngines(t, millionLines) }

func millionLines(t *testing.T, e *fixture.Engine) {
	const million = 1_000_000
	a := fixture.StartAgent(t, e, "127.0.0.1")
	s := a.Server(t, func(*server.Settings) {})
	c := fixture.Connect(t, s)
	c.Send(fixture.JSONOf(t, fixture.Command(fmt.Sprintf("sh -c 'echo begun; seq %d; exit 3'", million))))
	c.WaitFor(`"begun"`)
	for n := 1; n <= million; n++ {
		if message, want := c.Next(), fmt.Sprintf(`{"stdout":"%d","jobStatus":"running"}`, n); message != want {
			t.Fatalf("line %d is %s", n, message)
		}
	}
	fixture.WantMessage(t, c.Finish(), fixture.Exited(3))
}
