//go:build integration && long

package protocol

import (
	"fmt"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/test/kit/fixture"
	"iglu.sh/builder/test/kit/malformed"
)

// TestMalformedMessages sends 10,000 malformed first messages while a job of another server runs. Each is refused,
// and both servers keep working.
func TestMalformedMessages(t *testing.T) {
	const messages = 10_000
	runningClient := fixture.Connect(t, fixture.Env.Server)
	runningClient.Send(fixture.JSONOf(t, fixture.Command("sh -c 'echo begun; while ! [ -e /tmp/end ]; do sleep 0.1; done; sleep 2; echo done'")))
	runningClient.WaitFor(`"begun"`)
	container := fixture.Env.Server.JobContainer(t)

	s := fixture.ServerWith(t, func(*server.Settings) {})
	fixture.WantFree(t, s)
	next := malformed.Messages(t, fixture.RepoPath("."), fixture.JSONOf(t, fixture.Command("no-such-program")))
	before := fixture.CountAll(t, s)
	for n := range messages {
		message := next()
		c := fixture.Connect(t, s)
		if err := c.Conn.WriteMessage(websocket.TextMessage, message); err != nil {
			t.Fatal(err)
		}
		got, code := c.Read()
		if !strings.HasPrefix(got, notJSON) || code != 0 {
			t.Fatalf("message %d, %q: got %s, close code %d", n, message, got, code)
		}
		c.Conn.Close()
		if n%100 == 0 { // the same to the client of a running job
			runningClient.Send(string(message))
			if got := runningClient.Next(); got != fixture.Busy {
				t.Fatalf("during the job: %s", got)
			}
		}
	}
	fixture.WantFree(t, s)
	fixture.WantNotMore(t, s, before)
	fixture.Docker(t, "exec", container, "/bin/sh", "-c", "> /tmp/end")
	got := runningClient.Finish()
	fixture.WantLine(t, got, "done")
	if fmt.Sprint(got.Messages) != fmt.Sprint([]string{fixture.Succeeded}) {
		t.Errorf("the other server's job ended with %v", got.Messages)
	}
}
