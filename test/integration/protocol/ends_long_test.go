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

// TestAskedFirst cancels jobs. One ends after SIGTERM. The other ignores it and is killed, but only after the grace
// period.
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
	// When the builder shuts down, the first process of the container kills processes that do not end within 3 s.
	if _, took := cancel("trap '' TERM; echo begun; while :; do sleep 1; done"); took < 3*time.Second {
		t.Errorf("it was killed too early, after %s", took)
	}
}

// TestClientsThatLeave disconnects clients with and without a close message.
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

// TestEngineEnds checks the server's log after jobs that end because of the engine or the image. The messages to
// the client are tested elsewhere.
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

// TestDeadlines runs jobs that run too long, or that are silent for too long.
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

// TestKilledFromOutside ends jobs' containers with the engine's own commands, in every way.
func TestKilledFromOutside(t *testing.T) { fixture.OnEngines(t, killedFromOutside) }

func killedFromOutside(t *testing.T, e *fixture.Engine) {
	s := e.Server(t, func(*server.Settings) {})
	removed := 137
	if e.IsPodman() {
		removed = 143 // Podman stops a container before it removes it
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
	// A job that kills itself has the same exit code, but another message.
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("sh -c 'kill -KILL $$'")), 137)
	fixture.WantExit(t, fixture.Do(t, s, fixture.Command("sh -c 'exit 143'")), 143)
	fixture.WantEnd(t, s, "exited")
}
