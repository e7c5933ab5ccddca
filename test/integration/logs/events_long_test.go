//go:build integration && long

package logs

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/server"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

// TestPlainClient sends a job from a client without events and from one with events. Both get the same lines of
// output, and none of Nix's machine-readable messages.
func TestPlainClient(t *testing.T) {
	for _, line := range []string{
		// One derivation at a time: the end of another one that fails would be a matter of chance.
		nixBuild(family, "--max-jobs", "1"), nixBuild(family, "-L", "--max-jobs", "1"), nixBuildOld(family, "--max-jobs", "1"),
		`sh -c 'printf "half a "; nix-instantiate --eval -E 1; echo line; printf "\036\036TOKEN.0001\n\036"; nix --version >&2'`,
	} {
		plain := fixture.Do(t, fixture.Env.Server, fixture.Command(line))
		story := tell(t, schemas.Document, fixture.Env.Server, fixture.Command(line))
		if len(plain.Lines) == 0 || len(story.Lines) == 0 {
			t.Fatalf("%s: no lines", line)
		}
		plain.Lines, story.Lines = plain.Lines[1:], story.Lines[1:] // the line with the job's id
		slices.Sort(plain.Lines)                                    // the order of lines from two streams is random
		slices.Sort(story.Lines)
		if diff := cmp.Diff(plain.Lines, story.Lines); diff != "" {
			t.Errorf("%s (-plain +with events):\n%s", line, diff)
		}
		if len(story.Lines) < 2 {
			t.Errorf("%s: only %q", line, story.Lines)
		}
	}
}

// TestEventsAndTokens requests the subprotocol together with the token: as a browser does, in both orders, and
// with the token in a header.
func TestEventsAndTokens(t *testing.T) {
	s := fixture.ServerWith(t, func(s *server.Settings) { s.TokenFile = fixture.TokenFile(t, fixture.GoodToken) })
	for _, test := range []struct {
		header   http.Header
		offered  []string
		status   int
		protocol string
	}{
		{nil, []string{schemas.EventsProtocol, "bearer", fixture.GoodToken}, 101, schemas.EventsProtocol},
		{nil, []string{"bearer", fixture.GoodToken, schemas.EventsProtocol}, 101, schemas.EventsProtocol},
		{http.Header{"Authorization": {"Bearer " + fixture.GoodToken}}, []string{schemas.EventsProtocol}, 101, schemas.EventsProtocol},
		{nil, []string{"bearer", fixture.GoodToken}, 101, "bearer"},
		{nil, []string{schemas.EventsProtocol}, 401, ""},
		{nil, []string{schemas.EventsProtocol, "bearer"}, 401, ""},
		{nil, []string{"bearer", schemas.EventsProtocol, fixture.GoodToken}, 401, ""},
		{nil, []string{schemas.EventsProtocol, fixture.GoodToken}, 401, ""},
	} {
		dialer := websocket.Dialer{Subprotocols: test.offered}
		conn, response, err := dialer.DialContext(t.Context(), "ws://"+s.Address+"/api/v1/build", test.header)
		if response == nil || response.StatusCode != test.status {
			t.Fatalf("%v: %v, %v", test.offered, response, err)
		}
		if conn != nil {
			if got := conn.Subprotocol(); got != test.protocol {
				t.Errorf("%v: %q", test.offered, got)
			}
			conn.Close()
		}
	}
}

// A client with events gets the same refusals as others, including that of a second job.
func TestRefusalsOfEvents(t *testing.T) {
	s := fixture.ServerWith(t, func(*server.Settings) {})
	c := connectForEvents(t, schemas.Document, s)
	second := connectForEvents(t, schemas.Document, s)
	if message, _ := second.Read(); message != fixture.Busy {
		t.Errorf("a second client gets %s", message)
	}
	c.SendJob(fixture.Command("sleep 3"))
	c.WaitForEvent(schemas.Evaluate)
	c.Send("{}")
	if message := c.Next(); !strings.Contains(message, `"stdout"`) && message != fixture.Busy {
		t.Errorf("a second job gets %s", message)
	}
	c.Conn.Close()
	fixture.WantFree(t, s)
	broken := connectForEvents(t, schemas.Document, s)
	broken.Send("{")
	if message, _ := broken.Read(); message != `{"error":"Not a valid JSON","msg":"line 1, column 2: unexpected end of JSON input","jobStatus":"failed"}` {
		t.Errorf("a client that sends no JSON gets %s", message)
	}
}

// TestEndsInEvents checks the verdicts of jobs that are stopped.
func TestEndsInEvents(t *testing.T) {
	const timeout = 30 * time.Second // long enough for the job to begin on a slow machine
	late := fixture.ServerWith(t, func(s *server.Settings) { s.Deadlines.Build = timeout })
	story := tell(t, schemas.Document, late, fixture.Command("sleep 60"))
	if v := story.Verdict(); v.End != "timed-out" || v.ExitCode != nil || v.Seconds < timeout.Seconds() || v.PeakMemory == 0 {
		t.Errorf("verdict %+v", v)
	}
	imageless := fixture.ServerWith(t, func(s *server.Settings) { s.JobImage = "localhost:1/no/such-image" })
	story = tell(t, schemas.Document, imageless, fixture.Command("sleep 60"))
	if v := story.Verdict(); v.End != "no-image" || v.ExitCode != nil || v.Image != "" || !slices.Equal(story.Phases(), []schemas.Phase{schemas.Pull}) {
		t.Errorf("phases %v, verdict %+v", story.Phases(), v)
	}
}

// TestMillionEvents reads a long log with a client with events. It gets every line in order.
func TestMillionEvents(t *testing.T) {
	const lines = 300_000
	c := connectForEvents(t, schemas.Document, fixture.Env.Server)
	c.SendJob(fixture.Command(fmt.Sprint("seq ", lines)))
	seen := 0
	for {
		_, data, err := c.Conn.ReadMessage()
		if err != nil {
			break
		}
		if line, ok := schemas.CutOutput(data); ok && !strings.HasPrefix(string(line), "iglu: ") {
			if seen++; string(line) != fmt.Sprint(seen) {
				t.Fatalf("line %d is %s", seen, line)
			}
		} else if !ok && !json.Valid(data) {
			t.Fatalf("message %s", data)
		}
	}
	if seen != lines {
		t.Errorf("%d of %d lines arrived", seen, lines)
	}
}

// A log that cannot be stored still ends with a numbered message.
func TestEventsOnAFullDisk(t *testing.T) {
	s := fixture.ServerWith(t, func(s *server.Settings) { s.StateDir, s.KeepLogs = smallDisk(t), joblog.Keep{} })
	story := tell(t, schemas.Document, s, fixture.Command("sh -c 'seq 1000000; sleep 1000'"))
	if v := story.Verdict(); v.End != "failed" || len(story.Lines) == 0 {
		t.Errorf("%d lines, verdict %+v", len(story.Lines), v)
	}
}
