//go:build integration && long

package protocol

import (
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
)

// TestAskedFirst cancels jobs, of which one does as it is told and one does not: that is
// killed, but not before its time.
func TestAskedFirst(t *testing.T) { fixture.OnEngines(t, askedFirst) }

func askedFirst(t *testing.T, e *fixture.Engine) {
	const msg = "The builder is shutting down. Send the job again when it is back."
	cancel := func(script string) (r fixture.Result, took time.Duration) {
		s := e.Server(t, func(*server.Settings) {})
		c := fixture.Connect(t, s)
		c.Send(fixture.JSONOf(t, fixture.Command(`sh -c "`+script+`"`)))
		c.WaitFor(`"begun"`)
		begun := time.Now()
		s.Cancel()
		r = c.Finish()
		fixture.WantMessage(t, r, cancelledBecause(msg))
		return r, time.Since(begun)
	}
	obedient, _ := cancel("trap 'echo told; exit 7' TERM; echo begun; while :; do sleep 0.1; done")
	fixture.WantLine(t, obedient, "told")
	// The first process of the container kills what does not end within 8 s.
	if _, took := cancel("trap '' TERM; echo begun; while :; do sleep 1; done"); took < 7*time.Second {
		t.Errorf("it was killed after %s already", took)
	}
}

// TestClientsThatLeave says goodbye, and goes without a word.
func TestClientsThatLeave(t *testing.T) { fixture.OnEngines(t, clientsThatLeave) }

func clientsThatLeave(t *testing.T, e *fixture.Engine) {
	for end, leave := range map[string]func(*websocket.Conn){
		"cancelled": func(c *websocket.Conn) {
			c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Minute))
		},
		"client-gone": func(c *websocket.Conn) { c.NetConn().Close() },
	} {
		s := e.Server(t, func(*server.Settings) {})
		c := fixture.Connect(t, s)
		c.Send(fixture.JSONOf(t, fixture.Command("sh -c 'echo begun; sleep 1000'")))
		c.WaitFor(`"begun"`)
		leave(c.Conn)
		fixture.WantEnd(t, s, end)
		if err := s.AwaitNoContainers(30 * time.Second); err != nil {
			t.Errorf("the job's container: %v", err)
		}
	}
}

// TestEngineEnds looks for the engine's and the image's ends in the server's log; what the
// client is told of them is tested elsewhere.
func TestEngineEnds(t *testing.T) {
	fixture.OnEngines(t, func(t *testing.T, e *fixture.Engine) {
		engine := httptest.NewServer(fixture.ProxyTo(t, e.Socket()))
		s := e.ServerVia(t, "tcp://"+engine.Listener.Addr().String(), func(s *server.Settings) { s.JobImage = "127.0.0.1:1/not/there:1" })
		fixture.Do(t, s, fixture.Command("nix"))
		fixture.WantEnd(t, s, "no-image")
		engine.Close()
		fixture.Do(t, s, fixture.Command("nix"))
		fixture.WantEnd(t, s, "engine-gone")
	})
}

// TestDeadlines has jobs run too long, and be too silent.
func TestDeadlines(t *testing.T) { fixture.OnEngines(t, deadlines) }

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
