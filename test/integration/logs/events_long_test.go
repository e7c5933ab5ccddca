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
	"iglu.sh/builder/internal/shellwords"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

// TestPlainClient sends a job for a client without events and one with: the first gets the
// very lines of the second, and of what Nix tells programs none.
func TestPlainClient(t *testing.T) {
	for _, line := range []string{
		nixBuild(family), nixBuild(family, "-L"),
		shellwords.Join([]string{"nix-build", "--no-out-link", "-E", family}),
		`sh -c 'printf "half a "; nix-instantiate --eval -E 1; echo line; printf "\036\036TOKEN.0001\n\036"; nix --version >&2'`,
	} {
		plain := fixture.Do(t, fixture.Env.Server, fixture.Command(line))
		told := tell(t, schemas.Document, fixture.Env.Server, fixture.Command(line))
		if len(plain.Lines) == 0 || len(told.Lines) == 0 {
			t.Fatalf("%s: no lines", line)
		}
		plain.Lines, told.Lines = plain.Lines[1:], told.Lines[1:] // of which job it is
		slices.Sort(plain.Lines)                                  // the order of two streams is up to chance
		slices.Sort(told.Lines)
		if diff := cmp.Diff(plain.Lines, told.Lines); diff != "" {
			t.Errorf("%s (-plain +with events):\n%s", line, diff)
		}
		if len(told.Lines) < 2 {
			t.Errorf("%s: only %q", line, told.Lines)
		}
	}
}

// TestEventsAndTokens offers the subprotocol beside the token, as browsers do it, in both
// orders, and beside a header.
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

// A client of events is told of refusals as others are, also of a second job.
func TestRefusalsOfEvents(t *testing.T) {
	s := fixture.ServerWith(t, func(*server.Settings) {})
	c := connectForEvents(t, schemas.Document, s)
	second := connectForEvents(t, schemas.Document, s)
	if message, _ := second.Read(); message != fixture.Busy {
		t.Errorf("a second client is told %s", message)
	}
	c.SendJob(fixture.Command("sleep 3"))
	c.WaitForEvent(schemas.Evaluate)
	c.Send("{}")
	if message := c.Next(); !strings.Contains(message, `"stdout"`) && message != fixture.Busy {
		t.Errorf("a second job is told %s", message)
	}
	c.Conn.Close()
	fixture.WantFree(t, s)
	broken := connectForEvents(t, schemas.Document, s)
	broken.Send("{")
	if message, _ := broken.Read(); message != `{"error":"Not a valid JSON","msg":"line 1, column 2: unexpected end of JSON input","jobStatus":"failed"}` {
		t.Errorf("who sends no JSON is told %s", message)
	}
}

// TestEndsInEvents has jobs end in other ways than by themselves.
func TestEndsInEvents(t *testing.T) {
	const timeout = 10 * time.Second // in which a slow machine has the job begin as well
	late := fixture.ServerWith(t, func(s *server.Settings) { s.Deadlines.Build = timeout })
	told := tell(t, schemas.Document, late, fixture.Command("sleep 60"))
	if v := told.Verdict(); v.End != "timed-out" || v.ExitCode != nil || v.Seconds < timeout.Seconds() || v.PeakMemory == 0 {
		t.Errorf("verdict %+v", v)
	}
	imageless := fixture.ServerWith(t, func(s *server.Settings) { s.JobImage = "localhost:1/no/such-image" })
	told = tell(t, schemas.Document, imageless, fixture.Command("sleep 60"))
	if v := told.Verdict(); v.End != "no-image" || v.ExitCode != nil || v.Image != "" || !slices.Equal(told.Phases(), []schemas.Phase{schemas.Pull}) {
		t.Errorf("phases %v, verdict %+v", told.Phases(), v)
	}
}

// TestMillionEvents has a client of events read a long log: it gets every line in order.
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
		t.Errorf("%d of %d lines came", seen, lines)
	}
}

// A log that cannot be kept still ends with a message that is numbered.
func TestEventsOnAFullDisk(t *testing.T) {
	s := fixture.ServerWith(t, func(s *server.Settings) { s.StateDir, s.KeepLogs = smallDisk(t), joblog.Keep{} })
	told := tell(t, schemas.Document, s, fixture.Command("sh -c 'seq 1000000; sleep 1000'"))
	if v := told.Verdict(); v.End != "failed" || len(told.Lines) == 0 {
		t.Errorf("%d lines, verdict %+v", len(told.Lines), v)
	}
}
