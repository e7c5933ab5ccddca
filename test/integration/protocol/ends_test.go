//go:build integration

package protocol

import (
	"fmt"
	"testing"
	"time"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

func cancelledBecause(msg string) string {
	return fmt.Sprintf(`{"error":"The job was cancelled.","msg":%q,"jobStatus":"failed"}`, msg)
}

func deadlines(t *testing.T, e *fixture.Engine) {
	long := e.Server(t, func(s *server.Settings) { s.Deadlines.Build = 2 * time.Second })
	got := fixture.Do(t, long, fixture.Command("sh -c 'while :; do echo line; sleep 0.1; done'"))
	fixture.WantMessage(t, got, cancelledBecause("It ran longer than 2s, the most that a job may (IGLU_BUILD_TIMEOUT)."))
	fixture.WantEnd(t, long, "timed-out")

	silent := e.Server(t, func(s *server.Settings) { s.Deadlines.Silence = 10 * time.Second })
	got = fixture.Do(t, silent, fixture.Command("sh -c 'sleep 1000'"))
	fixture.WantMessage(t, got, cancelledBecause("It printed nothing for 10s, the longest that a job may be silent (IGLU_SILENCE_TIMEOUT)."))
	fixture.WantEnd(t, silent, "silent")
	fixture.WantExit(t, fixture.Do(t, silent, fixture.Command("sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1; echo $i; done'")), 0)
}

// TestKilledFromOutside ends containers behind the builder's back, in every way that an
// engine has.
func TestKilledFromOutside(t *testing.T) { fixture.OnEngines(t, killedFromOutside) }

func killedFromOutside(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(*server.Settings) {})
	removed := 137
	if e.IsPodman() {
		removed = 143 // it stops what it removes
	}
	for _, test := range []struct {
		args []string
		code int
	}{
		{[]string{"kill"}, 137},
		{[]string{"rm", "--force"}, removed},
		{[]string{"stop"}, 143},
	} {
		t.Run(test.args[0], func(t *testing.T) {
			c := fixture.Connect(t, s)
			c.Send(fixture.JSONOf(t, fixture.Command("sh -c 'echo begun; sleep 1000'")))
			c.WaitFor(`"begun"`)
			e.Docker(t, append(test.args, s.Containers()...)...)
			fixture.WantMessage(t, c.Finish(), fixture.ExitedBecause(test.code, fixture.Killed))
			fixture.WantEnd(t, s, "killed")
			fixture.WantFree(t, s)
		})
	}
	// A job that kills itself is another thing, though its exit code is the same.
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("sh -c 'kill -KILL $$'")), 137)
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("sh -c 'exit 143'")), 143)
	fixture.WantEnd(t, s, "exited")
}
