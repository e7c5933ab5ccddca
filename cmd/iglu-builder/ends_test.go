package main

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/schemas"
)

// What clients are told of jobs that did not end by themselves.
const (
	outOfMemory = "The job ran out of memory. It may use 128MiB (IGLU_JOB_MEMORY)."
	killed      = "The job's container was ended from outside, not by the builder. " +
		"Whoever looks after the container engine may know why."
)

func cancelledBecause(msg string) string {
	return fmt.Sprintf(`{"error":"The job was cancelled.","msg":%q,"jobStatus":"failed"}`, msg)
}

func exitedBecause(code int, msg string) string {
	response := schemas.Exited(code)
	response.Msg = msg
	return string(response.Encode())
}

// wantMessage checks a job's last message and the close code after it.
func wantMessage(t *testing.T, r result, want string) {
	t.Helper()
	if len(r.messages) == 0 || r.messages[len(r.messages)-1] != want || r.closeCode != websocket.CloseInternalServerErr {
		t.Errorf("want %s, got %v, close code %d, lines:\n%s", want, r.messages, r.closeCode, strings.Join(r.lines, "\n"))
	}
}

// wantEnd checks what the server's log says of the latest job's end.
func wantEnd(t *testing.T, s *server, end string) {
	t.Helper()
	var last string
	if err := poll(30*time.Second, func() bool {
		_, last, _ = cutLast(s.log.String(), `msg="job ended" `)
		return strings.Contains(last, "end="+end+" ")
	}); err != nil {
		t.Errorf("the job's end is not %s: %s", end, last)
	}
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// TestDeadlines has jobs run too long, and be too silent.
func TestDeadlines(t *testing.T) { onEngines(t, deadlines) }

func deadlines(t *testing.T, e *site) {
	long := e.server(t, func(s *settings) { s.deadlines.Build = 2 * time.Second })
	got := do(t, long, command("sh -c 'while :; do echo line; sleep 0.1; done'"))
	wantMessage(t, got, cancelledBecause("It ran longer than 2s, the most that a job may (IGLU_BUILD_TIMEOUT)."))
	wantEnd(t, long, "timed-out")

	silent := e.server(t, func(s *settings) { s.deadlines.Silence = 10 * time.Second })
	got = do(t, silent, command("sh -c 'sleep 1000'"))
	wantMessage(t, got, cancelledBecause("It printed nothing for 10s, the longest that a job may be silent (IGLU_SILENCE_TIMEOUT)."))
	wantEnd(t, silent, "silent")
	wantExit(t, do(t, silent, command("sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1; echo $i; done'")), 0)
}

// TestAskedFirst cancels jobs, of which one does as it is told and one does not: that is
// killed, but not before its time.
func TestAskedFirst(t *testing.T) { onEngines(t, askedFirst) }

func askedFirst(t *testing.T, e *site) {
	const msg = "The builder is shutting down. Send the job again when it is back."
	cancel := func(script string) (r result, took time.Duration) {
		s := e.server(t, func(*settings) {})
		c := connect(t, s)
		c.send(jsonOf(t, command(`sh -c "`+script+`"`)))
		c.waitFor(`"begun"`)
		begun := time.Now()
		s.cancel()
		r = c.finish()
		wantMessage(t, r, cancelledBecause(msg))
		return r, time.Since(begun)
	}
	obedient, _ := cancel("trap 'echo told; exit 7' TERM; echo begun; while :; do sleep 0.1; done")
	wantLine(t, obedient, "told")
	// The first process of the container kills what does not end within 8 s.
	if _, took := cancel("trap '' TERM; echo begun; while :; do sleep 1; done"); took < 7*time.Second {
		t.Errorf("it was killed after %s already", took)
	}
}

// TestClientsThatLeave says goodbye, and goes without a word.
func TestClientsThatLeave(t *testing.T) { onEngines(t, clientsThatLeave) }

func clientsThatLeave(t *testing.T, e *site) {
	for end, leave := range map[string]func(*websocket.Conn){
		"cancelled": func(c *websocket.Conn) {
			c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Minute))
		},
		"client-gone": func(c *websocket.Conn) { c.NetConn().Close() },
	} {
		s := e.server(t, func(*settings) {})
		c := connect(t, s)
		c.send(jsonOf(t, command("sh -c 'echo begun; sleep 1000'")))
		c.waitFor(`"begun"`)
		leave(c.conn)
		wantEnd(t, s, end)
		if err := poll(30*time.Second, func() bool { return len(s.containers()) == 0 }); err != nil {
			t.Errorf("the job's container: %v", err)
		}
	}
}

// TestKilledFromOutside ends containers behind the builder's back, in every way that an
// engine has.
func TestKilledFromOutside(t *testing.T) { onEngines(t, killedFromOutside) }

func killedFromOutside(t *testing.T, e *site) {
	s := e.server(t, func(*settings) {})
	removed := 137
	if e.isPodman() {
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
			c := connect(t, s)
			c.send(jsonOf(t, command("sh -c 'echo begun; sleep 1000'")))
			c.waitFor(`"begun"`)
			e.docker(t, append(test.args, s.containers()...)...)
			wantMessage(t, c.finish(), exitedBecause(test.code, killed))
			wantEnd(t, s, "killed")
			wantFree(t, s)
		})
	}
	// A job that kills itself is another thing, though its exit code is the same.
	wantExit(t, do(t, s, command("sh -c 'kill -KILL $$'")), 137)
	wantExit(t, do(t, s, command("sh -c 'exit 143'")), 143)
	wantEnd(t, s, "exited")
}

// TestEngineEnds looks for the engine's and the image's ends in the server's log; what the
// client is told of them is tested elsewhere.
func TestEngineEnds(t *testing.T) {
	onEngines(t, func(t *testing.T, e *site) {
		engine := httptest.NewServer(proxyTo(t, e.socket()))
		s := e.serverVia(t, "tcp://"+engine.Listener.Addr().String(), func(s *settings) { s.jobImage = "127.0.0.1:1/not/there:1" })
		do(t, s, command("nix"))
		wantEnd(t, s, "no-image")
		engine.Close()
		do(t, s, command("nix"))
		wantEnd(t, s, "engine-gone")
	})
}
