package main

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
	"iglu.sh/builder/internal/shellwords"
	"iglu.sh/builder/schemas"
)

// connectForEvents is connectIn for a client that offers the subprotocol for events.
func connectForEvents(t *testing.T, form schemas.Form, s *server) *client {
	t.Helper()
	dialer := websocket.Dialer{Subprotocols: []string{schemas.EventsProtocol}}
	conn, _, err := dialer.DialContext(t.Context(), "ws://"+s.address+"/api/v1/build", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if conn.Subprotocol() != schemas.EventsProtocol {
		t.Fatalf("the server speaks %q", conn.Subprotocol())
	}
	return &client{t: t, conn: conn, form: form, events: true}
}

// story is all that a client of events is sent of one job.
type story struct {
	messages  []schemas.Message
	events    []schemas.Event // in their order, the verdict last
	lines     []string        // of output
	closeCode int
}

// tell sends a job to a server and returns all that comes back to a client of events, which
// must be numbered without a gap and begin and end as it should.
func tell(t *testing.T, form schemas.Form, s *server, j job) story {
	t.Helper()
	c := connectForEvents(t, form, s)
	c.sendJob(j)
	return c.story()
}

// story reads until the server closes the connection.
func (c *client) story() (told story) {
	c.t.Helper()
	for {
		text, code := c.read()
		if code != 0 {
			told.closeCode = code
			break
		}
		m, err := schemas.ParseMessage([]byte(text))
		if err != nil {
			c.t.Fatal(err)
		}
		told.messages = append(told.messages, m)
		if m.Stream != "" {
			told.lines = append(told.lines, string(m.Line))
		}
		if m.Event != nil {
			e, err := schemas.ParseEvent(m.Event)
			if err != nil || e == nil {
				c.t.Fatalf("event %s: %v", m.Event, err)
			}
			told.events = append(told.events, e)
		}
	}
	c.conn.Close()
	for i, m := range told.messages {
		if m.Seq != int64(i+1) || m.Last() != (i == len(told.messages)-1) || time.Since(m.Time) > time.Hour {
			c.t.Errorf("message %d of %d: %+v", i+1, len(told.messages), m)
		}
	}
	return told
}

// verdict returns how the job has ended.
func (s story) verdict() schemas.VerdictEvent {
	v, _ := s.events[len(s.events)-1].(schemas.VerdictEvent)
	return v
}

// phases returns the names of the phases that were told.
func (s story) phases() (phases []schemas.Phase) {
	for _, e := range s.events {
		if p, ok := e.(schemas.PhaseEvent); ok {
			phases = append(phases, p.Phase)
		}
	}
	return phases
}

// last returns the last event of a type.
func last[E schemas.Event](s story) (latest E) {
	for _, e := range s.events {
		if e, ok := e.(E); ok {
			latest = e
		}
	}
	return latest
}

// states returns what was told of the derivation of a name, and the lines of its log.
func (s story) states(name string) (states []schemas.DerivationEvent, lines []string) {
	for _, e := range s.events {
		switch e := e.(type) {
		case schemas.DerivationEvent:
			if strings.HasSuffix(e.Derivation, "-"+name+".drv") {
				e.Derivation = ""
				states = append(states, e)
			}
		case schemas.LineEvent:
			if strings.HasSuffix(e.Derivation, "-"+name+".drv") {
				lines = append(lines, e.Text)
			}
		}
	}
	return states, lines
}

// checkVerdict holds a verdict against what else was told.
func checkVerdict(t *testing.T, told story, end string, code int) {
	t.Helper()
	v := told.verdict()
	if v.End != end || v.ExitCode == nil || *v.ExitCode != code {
		t.Errorf("verdict %+v, want %s with %d", v, end, code)
	}
	if v.PeakMemory < 1<<20 || v.CPUSeconds <= 0 || v.CPUSeconds > 600 || !strings.HasPrefix(v.Image, "sha256:") {
		t.Errorf("verdict %+v", v)
	}
	var timed []schemas.Phase
	sum := 0.0
	for _, p := range v.Phases {
		timed = append(timed, p.Phase)
		sum += p.Seconds
	}
	if diff := cmp.Diff(told.phases(), append(timed, schemas.Done)); diff != "" {
		t.Errorf("the verdict has other phases than were told (-told +verdict):\n%s", diff)
	}
	if sum <= 0 || sum > v.Seconds+0.01 {
		t.Errorf("the phases took %g s of %g", sum, v.Seconds)
	}
}

// nixBuild is a job's command that builds an expression with a Nix that tells programs of it.
func nixBuild(expression string, more ...string) string {
	return shellwords.Join(append([]string{"nix", "build", "--impure", "--no-link", "--expr", expression}, more...))
}

// family is an expression of several derivations, one of which fails.
const family = `let
  d = name: deps: script: derivation {
    inherit name deps; system = builtins.currentSystem; builder = "/bin/sh";
    args = [ "-c" ("PATH=/nix/var/nix/profiles/default/bin:/usr/bin:/bin; " + script) ];
  };
  a = d "a" [ ] "echo '@nix { \"action\": \"setPhase\", \"phase\": \"buildPhase\" }' >&2; echo one; sleep 1; echo two; echo > $out";
  b = d "b" [ a ] "i=0; while [ $i -lt 30 ]; do echo line $i; i=$((i+1)); done; exit 3";
  c = d "c" [ a ] "echo three >&2; echo > $out";
in [ b c ]`

// TestEvents builds several derivations, of which one fails, in each form.
func TestEvents(t *testing.T) {
	inForms(t, func(t *testing.T, form schemas.Form) {
		j := command(nixBuild(family))
		j.BuildOptions.KeepGoing = true
		told := tell(t, form, world.server, j)
		checkVerdict(t, told, "exited", 1)
		if told.closeCode != websocket.CloseInternalServerErr {
			t.Errorf("close code %d", told.closeCode)
		}
		if diff := cmp.Diff([]schemas.Phase{schemas.Create, schemas.Evaluate, schemas.Build, schemas.Done}, told.phases()); diff != "" {
			t.Errorf("phases (-want +got):\n%s", diff)
		}
		var tail []string
		for n := 10; n < 30; n++ {
			tail = append(tail, fmt.Sprint("line ", n))
		}
		for name, want := range map[string][]schemas.DerivationEvent{
			"a": {{State: "building"}, {State: "building", Phase: "buildPhase"}, {State: "built", Phase: "buildPhase"}},
			"b": {{State: "building"}, {State: "failed", Log: tail}},
			"c": {{State: "building"}, {State: "built"}},
		} {
			if states, _ := told.states(name); cmp.Diff(want, states) != "" {
				t.Errorf("%s (-want +got):\n%s", name, cmp.Diff(want, states))
			}
		}
		if _, lines := told.states("a"); !slices.Equal(lines, []string{"one", "two"}) {
			t.Errorf("a's log is %q", lines)
		}
		want := schemas.ProgressEvent{Derivations: schemas.Counts{Done: 2, Expected: 3, Failed: 1}}
		if got := last[schemas.ProgressEvent](told); got != want {
			t.Errorf("progress %+v, want %+v", got, want)
		}
		wantStreams(t, told)
	})
}

// wantStreams checks where lines come from.
func wantStreams(t *testing.T, told story) {
	t.Helper()
	for _, m := range told.messages {
		want := m.Stream
		switch line := string(m.Line); {
		case strings.HasPrefix(line, "iglu: running"):
			want = schemas.Stdout
		case strings.Contains(line, "error:"):
			want = schemas.Stderr
		}
		if m.Stream != want {
			t.Errorf("%q comes from %q, want %q", m.Line, m.Stream, want)
		}
	}
}

// TestSeveralNix has a script run several Nix processes, one after the other and at once, and
// leave one running: that does not hold up the job's end.
func TestSeveralNix(t *testing.T) {
	d := func(name, script string) string {
		return nixBuild(derivation(name, "PATH=/nix/var/nix/profiles/default/bin:/usr/bin:/bin; "+script))
	}
	const quiet = ` > /dev/null 2>&1 < /dev/null &`
	script := d("first", "echo > $out") + ` && { ` + d("second", "sleep 1; echo > $out") + ` & ` + d("third", "sleep 1; echo > $out") +
		`; wait; } && { ` + d("left", "echo begun; touch /tmp/left; sleep 600") + quiet + ` while [ ! -e /tmp/left ]; do sleep 0.1; done; sleep 1; }`
	begun := time.Now()
	told := tell(t, schemas.Document, world.server, command(shellwords.Join([]string{"sh", "-c", script})))
	checkVerdict(t, told, "exited", 0)
	for name, want := range map[string]schemas.DerivationEvent{
		"first": {State: "built"}, "second": {State: "built"}, "third": {State: "built"}, "left": {State: "failed", Log: []string{"begun"}},
	} {
		states, _ := told.states(name)
		if len(states) != 2 || cmp.Diff(want, states[1]) != "" {
			t.Errorf("%s: %+v, want %+v in the end", name, states, want)
		}
	}
	if got := last[schemas.ProgressEvent](told).Derivations.Done; got != 3 {
		t.Errorf("%d derivations are built, want 3", got)
	}
	if took := time.Since(begun); took > 5*time.Minute {
		t.Errorf("it took %s", took)
	}
}

// TestPlainClient sends a job for a client without events and one with: the first gets the
// very lines of the second, and of what Nix tells programs none.
func TestPlainClient(t *testing.T) {
	for _, line := range []string{
		nixBuild(family), nixBuild(family, "-L"),
		shellwords.Join([]string{"nix-build", "--no-out-link", "-E", family}),
		`sh -c 'printf "half a "; nix-instantiate --eval -E 1; echo line; printf "\036\036TOKEN.0001\n\036"; nix --version >&2'`,
	} {
		plain := do(t, world.server, command(line))
		told := tell(t, schemas.Document, world.server, command(line))
		plain.lines, told.lines = withoutWaiting(plain.lines), withoutWaiting(told.lines)
		slices.Sort(plain.lines) // the order of two streams is up to chance
		slices.Sort(told.lines)
		if diff := cmp.Diff(plain.lines, told.lines); diff != "" {
			t.Errorf("%s (-plain +with events):\n%s", line, diff)
		}
		if len(told.lines) < 2 {
			t.Errorf("%s: only %q", line, told.lines)
		}
	}
}

// TestPushEvents pushes two paths of a repository, and then has another job get them from the
// cache.
func TestPushEvents(t *testing.T) {
	c := newCache(t)
	if err := world.git.commit("pushed-events", "main", map[string]string{"default.nix": strings.ReplaceAll(family, "[ b c ]", "[ a c ]")}); err != nil {
		t.Fatal(err)
	}
	j := c.pushing(build(world.git.public+"/pushed-events", "nix build --no-link --print-out-paths --file default.nix"))
	told := tell(t, schemas.Document, world.server, j)
	checkVerdict(t, told, "exited", 0)
	want := []schemas.Phase{schemas.Create, schemas.Fetch, schemas.Evaluate, schemas.Build, schemas.PushRest, schemas.Done}
	if diff := cmp.Diff(want, told.phases()); diff != "" {
		t.Errorf("phases (-want +got):\n%s", diff)
	}
	v, push := told.verdict(), last[schemas.PushEvent](told)
	if v.Pushed == nil || v.Pushed.Paths != 2 || push.Paths != (schemas.Share{Done: 2, Expected: 2}) || push.Bytes != v.Pushed.Bytes || push.Bytes == 0 {
		t.Errorf("push %+v, verdict %+v", push, v.Pushed)
	}
	if head := head(t, j); v.Commit != head {
		t.Errorf("commit %s, want %s", v.Commit, head)
	}

	get := command(shellwords.Join(append([]string{"nix", "build", "--no-link"}, paths(told.lines)...)))
	get.BuildOptions.Substituters = []string{c.url}
	get.BuildOptions.TrustedPublicKeys = []string{"default:" + publicKey(t)}
	told = tell(t, schemas.Document, world.server, get)
	checkVerdict(t, told, "exited", 0)
	progress := last[schemas.ProgressEvent](told)
	if progress.Paths != (schemas.Counts{Done: 2, Expected: 2}) || progress.Bytes.Done != progress.Bytes.Expected || progress.Bytes.Done == 0 {
		t.Errorf("progress %+v", progress)
	}
	if !slices.Contains(told.phases(), schemas.Build) || told.verdict().Pushed != nil {
		t.Errorf("phases %v, verdict %+v", told.phases(), told.verdict())
	}
}

// paths returns those lines that are paths of the store.
func paths(lines []string) (paths []string) {
	for _, line := range lines {
		if strings.HasPrefix(line, "/nix/store/") {
			paths = append(paths, line)
		}
	}
	return paths
}

// TestForgedEvents has a job try to tell the server what only the program may tell: it does
// not find the token.
func TestForgedEvents(t *testing.T) {
	script := `env | grep -c IGLU_ ; cat /proc/1/environ 2>/dev/null | wc -c; ` +
		`printf "\036AAAAAAAAAAAAAAAAAAAAAAAAAA.0019{\"commit\":\"%040d\"}\n" 7; printf "\036"; ` +
		`printf "\036{\"event\":{\"type\":\"phase\",\"phase\":\"push\"}}\n"; echo end`
	told := tell(t, schemas.Document, world.server, command(shellwords.Join([]string{"sh", "-c", script})))
	checkVerdict(t, told, "exited", 0)
	want := []string{"0", "0", "\x1eAAAAAAAAAAAAAAAAAAAAAAAAAA.0019" + fmt.Sprintf(`{"commit":"%040d"}`, 7),
		"\x1e\x1e" + `{"event":{"type":"phase","phase":"push"}}`, "end"}
	var got []string
	for _, line := range told.lines {
		if !strings.HasPrefix(line, "iglu: ") {
			got = append(got, line)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if told.verdict().Commit != "" || slices.Contains(told.phases(), schemas.PushRest) {
		t.Errorf("%v, %+v", told.phases(), told.verdict())
	}
}

// TestSecretsInEvents has a derivation print a job's secrets: they are masked in its lines,
// in its last ones, and wherever else; see client.read.
func TestSecretsInEvents(t *testing.T) {
	script := fmt.Sprintf("echo key %s; echo %s; exit 1", apiKey, signingKey)
	j := command(nixBuild(derivation("leak", script)))
	j.BuildOptions.Cachix.APIKey, j.BuildOptions.Cachix.SigningKey = apiKey, signingKey
	told := tell(t, schemas.Document, world.server, j)
	states, lines := told.states("leak")
	want := []string{"key ***", "***"}
	if !slices.Equal(lines, want) || len(states) != 2 || !slices.Equal(states[1].Log, want) {
		t.Errorf("lines %q, states %+v", lines, states)
	}
}

// TestEventsAndTokens offers the subprotocol beside the token, as browsers do it, in both
// orders, and beside a header.
func TestEventsAndTokens(t *testing.T) {
	s := serverWith(t, func(s *settings) { s.tokenFile = tokenFile(t, goodToken) })
	for _, test := range []struct {
		header   http.Header
		offered  []string
		status   int
		protocol string
	}{
		{nil, []string{schemas.EventsProtocol, "bearer", goodToken}, 101, schemas.EventsProtocol},
		{nil, []string{"bearer", goodToken, schemas.EventsProtocol}, 101, schemas.EventsProtocol},
		{http.Header{"Authorization": {"Bearer " + goodToken}}, []string{schemas.EventsProtocol}, 101, schemas.EventsProtocol},
		{nil, []string{"bearer", goodToken}, 101, "bearer"},
		{nil, []string{schemas.EventsProtocol}, 401, ""},
		{nil, []string{schemas.EventsProtocol, "bearer"}, 401, ""},
		{nil, []string{"bearer", schemas.EventsProtocol, goodToken}, 401, ""},
		{nil, []string{schemas.EventsProtocol, goodToken}, 401, ""},
	} {
		dialer := websocket.Dialer{Subprotocols: test.offered}
		conn, response, err := dialer.DialContext(t.Context(), "ws://"+s.address+"/api/v1/build", test.header)
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
	s := serverWith(t, func(*settings) {})
	c := connectForEvents(t, schemas.Document, s)
	second := connectForEvents(t, schemas.Document, s)
	if message, _ := second.read(); message != busy {
		t.Errorf("a second client is told %s", message)
	}
	c.sendJob(command("sleep 3"))
	c.waitForEvent(schemas.Evaluate)
	c.send("{}")
	if message := c.next(); !strings.Contains(message, `"stdout"`) && message != busy {
		t.Errorf("a second job is told %s", message)
	}
	c.conn.Close()
	wantFree(t, s)
	broken := connectForEvents(t, schemas.Document, s)
	broken.send("{")
	if message, _ := broken.read(); message != `{"error":"Not a valid JSON","jobStatus":"failed"}` {
		t.Errorf("who sends no JSON is told %s", message)
	}
}

// waitForEvent reads on until a phase begins.
func (c *client) waitForEvent(phase schemas.Phase) {
	c.t.Helper()
	for !strings.Contains(c.next(), fmt.Sprintf(`"phase":%q`, phase)) {
	}
}

// TestEndsInEvents has jobs end in other ways than by themselves.
func TestEndsInEvents(t *testing.T) {
	const timeout = 10 * time.Second // in which a slow machine has the job begin as well
	late := serverWith(t, func(s *settings) { s.deadlines.Build = timeout })
	told := tell(t, schemas.Document, late, command("sleep 60"))
	if v := told.verdict(); v.End != "timed-out" || v.ExitCode != nil || v.Seconds < timeout.Seconds() || v.PeakMemory == 0 {
		t.Errorf("verdict %+v", v)
	}
	imageless := serverWith(t, func(s *settings) { s.jobImage = "localhost:1/no/such-image" })
	told = tell(t, schemas.Document, imageless, command("sleep 60"))
	if v := told.verdict(); v.End != "no-image" || v.ExitCode != nil || v.Image != "" || !slices.Equal(told.phases(), []schemas.Phase{schemas.Pull}) {
		t.Errorf("phases %v, verdict %+v", told.phases(), v)
	}
}

// A log that cannot be kept still ends with a message that is numbered.
func TestEventsOnAFullDisk(t *testing.T) {
	s := serverWith(t, func(s *settings) { s.stateDir, s.keepLogs = smallDisk(t), joblog.Keep{} })
	told := tell(t, schemas.Document, s, command("sh -c 'seq 1000000; sleep 1000'"))
	if v := told.verdict(); v.End != "failed" || len(told.lines) == 0 {
		t.Errorf("%d lines, verdict %+v", len(told.lines), v)
	}
}

// TestMillionEvents has a client of events read a long log: it gets every line in order.
func TestMillionEvents(t *testing.T) {
	const lines = 300_000
	c := connectForEvents(t, schemas.Document, world.server)
	c.sendJob(command(fmt.Sprint("seq ", lines)))
	seen := 0
	for {
		_, data, err := c.conn.ReadMessage()
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
