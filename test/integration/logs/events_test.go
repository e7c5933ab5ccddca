//go:build integration

package logs

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"iglu.sh/builder/internal/shellwords"
	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

// connectForEvents is fixture.ConnectIn for a client that requests the subprotocol for events.
func connectForEvents(t *testing.T, format schemas.Format, s *fixture.Server) *fixture.Client {
	t.Helper()
	dialer := websocket.Dialer{Subprotocols: []string{schemas.EventsProtocol}}
	conn, _, err := dialer.DialContext(t.Context(), "ws://"+s.Address+"/api/v1/build", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if conn.Subprotocol() != schemas.EventsProtocol {
		t.Fatalf("the server's subprotocol is %q", conn.Subprotocol())
	}
	return &fixture.Client{T: t, Conn: conn, Format: format, Events: true}
}

// tell sends a job to a server and returns all messages for a client with events. They must be numbered without
// a gap.
func tell(t *testing.T, format schemas.Format, s *fixture.Server, j fixture.Job) fixture.Story {
	t.Helper()
	c := connectForEvents(t, format, s)
	c.SendJob(j)
	return c.Story()
}

// last returns the last event of a type.
func last[E schemas.Event](s fixture.Story) (latest E) {
	for _, e := range s.Events {
		if e, ok := e.(E); ok {
			latest = e
		}
	}
	return latest
}

// checkVerdict compares a verdict with the other events.
func checkVerdict(t *testing.T, story fixture.Story, end string, code int) {
	t.Helper()
	v := story.Verdict()
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
	if diff := cmp.Diff(story.Phases(), append(timed, schemas.Done)); diff != "" {
		t.Errorf("the verdict has other phases than the events (-events +verdict):\n%s", diff)
	}
	if sum <= 0 || sum > v.Seconds+0.01 {
		t.Errorf("the phases took %g s of %g", sum, v.Seconds)
	}
}

// nixBuild returns a command that builds an expression with a Nix that reports its progress to programs.
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

// TestEvents builds several derivations in each wire format. One of them fails.
func TestEvents(t *testing.T) {
	fixture.InFormats(t, func(t *testing.T, format schemas.Format) {
		j := fixture.Command(nixBuild(family))
		j.BuildOptions.KeepGoing = true
		story := tell(t, format, fixture.Env.Server, j)
		checkVerdict(t, story, "exited", 1)
		if story.CloseCode != websocket.CloseInternalServerErr {
			t.Errorf("close code %d", story.CloseCode)
		}
		if diff := cmp.Diff([]schemas.Phase{schemas.Create, schemas.Evaluate, schemas.Build, schemas.Done}, story.Phases()); diff != "" {
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
			if states, _ := story.States(name); cmp.Diff(want, states) != "" {
				t.Errorf("%s (-want +got):\n%s", name, cmp.Diff(want, states))
			}
		}
		if _, lines := story.States("a"); !slices.Equal(lines, []string{"one", "two"}) {
			t.Errorf("a's log is %q", lines)
		}
		want := schemas.ProgressEvent{Derivations: schemas.Counts{Done: 2, Expected: 3, Failed: 1}}
		if got := last[schemas.ProgressEvent](story); got != want {
			t.Errorf("progress %+v, want %+v", got, want)
		}
		wantStreams(t, story)
	})
}

// TestEventsOfCutOff builds pairs of derivations. Of the first, one fails while the other runs, so Nix kills the other. Of the
// second, Nix cannot build one, and goes on with the other.
func TestEventsOfCutOff(t *testing.T) {
	const d = `let
	  d = name: system: script: derivation {
	    inherit name system; builder = "/bin/sh";
	    args = [ "-c" ("PATH=/nix/var/nix/profiles/default/bin:/usr/bin:/bin; " + script) ];
	  };
	  own = builtins.currentSystem;
	`
	for _, test := range []struct {
		pair      string
		keepGoing bool
		states    map[string]schemas.DerivationState // the last ones
		reason    string
	}{
		{`in [ (d "fails" own "while [ ! -e /tmp/runs ]; do sleep 0.1; done; echo why; exit 3") (d "runs" own "touch /tmp/runs; sleep 600") ]`, false,
			map[string]schemas.DerivationState{"fails": schemas.DerivationFailed, "runs": schemas.DerivationFailed}, "fails failed: why"},
		{`in [ (d "refused" "none-linux" "echo > $out") (d "other" own "sleep 1; echo > $out") ]`, true,
			map[string]schemas.DerivationState{"other": schemas.DerivationBuilt}, "refused failed: platform mismatch"},
	} {
		j := fixture.Command(nixBuild(d+test.pair, "--max-jobs", "2"))
		j.BuildOptions.KeepGoing = test.keepGoing
		story := tell(t, schemas.Document, fixture.Env.Server, j)
		checkVerdict(t, story, "exited", 1)
		for name, want := range test.states {
			if states, _ := story.States(name); len(states) == 0 || states[len(states)-1].State != want {
				t.Errorf("%s: %+v, want %s in the end", name, states, want)
			}
		}
		if got := story.Verdict().Reason; got != test.reason {
			t.Errorf("the reason is %q, want %q", got, test.reason)
		}
	}
}

// wantStreams checks the streams of lines, standard output or standard error.
func wantStreams(t *testing.T, story fixture.Story) {
	t.Helper()
	for _, m := range story.Messages {
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

// TestSeveralNix runs a script with several Nix processes, in sequence and in parallel. One is still running at
// the end of the script, which does not delay the job's end.
func TestSeveralNix(t *testing.T) {
	d := func(name, script string) string {
		return nixBuild(fixture.Derivation(name, "PATH=/nix/var/nix/profiles/default/bin:/usr/bin:/bin; "+script))
	}
	const quiet = ` > /dev/null 2>&1 < /dev/null &`
	script := d("first", "echo > $out") + ` && { ` + d("second", "sleep 1; echo > $out") + ` & ` + d("third", "sleep 1; echo > $out") +
		`; wait; } && { ` + d("left", "echo begun; touch /tmp/left; sleep 600") + quiet + ` while [ ! -e /tmp/left ]; do sleep 0.1; done; sleep 1; }`
	begun := time.Now()
	story := tell(t, schemas.Document, fixture.Env.Server, fixture.Command(shellwords.Join([]string{"sh", "-c", script})))
	checkVerdict(t, story, "exited", 0)
	for name, want := range map[string]schemas.DerivationEvent{
		"first": {State: "built"}, "second": {State: "built"}, "third": {State: "built"}, "left": {State: "failed", Log: []string{"begun"}},
	} {
		states, _ := story.States(name)
		if len(states) != 2 || cmp.Diff(want, states[1]) != "" {
			t.Errorf("%s: %+v, want %+v in the end", name, states, want)
		}
	}
	if got := last[schemas.ProgressEvent](story).Derivations.Done; got != 3 {
		t.Errorf("%d derivations are built, want 3", got)
	}
	if took := time.Since(begun); took > 5*time.Minute {
		t.Errorf("it took %s", took)
	}
}

// TestPushEvents pushes two paths of a repository, and then fetches them from the cache in another job.
func TestPushEvents(t *testing.T) {
	c := fixture.NewCache(t)
	if err := fixture.Env.Git.Commit("pushed-events", "main", map[string]string{"default.nix": strings.ReplaceAll(family, "[ b c ]", "[ a c ]")}); err != nil {
		t.Fatal(err)
	}
	j := c.Pushing(fixture.Build(fixture.Env.Git.Public+"/pushed-events", "nix build --no-link --print-out-paths --file default.nix"))
	story := tell(t, schemas.Document, fixture.Env.Server, j)
	checkVerdict(t, story, "exited", 0)
	want := []schemas.Phase{schemas.Create, schemas.Fetch, schemas.Evaluate, schemas.Build, schemas.PushRest, schemas.Done}
	if diff := cmp.Diff(want, story.Phases()); diff != "" {
		t.Errorf("phases (-want +got):\n%s", diff)
	}
	v, push := story.Verdict(), last[schemas.PushEvent](story)
	if v.Pushed == nil || v.Pushed.Paths != 2 || push.Paths != (schemas.Share{Done: 2, Expected: 2}) || push.Bytes != v.Pushed.Bytes || push.Bytes == 0 {
		t.Errorf("push %+v, verdict %+v", push, v.Pushed)
	}
	if head := fixture.Head(t, j); v.Commit != head {
		t.Errorf("commit %s, want %s", v.Commit, head)
	}

	get := fixture.Command(shellwords.Join(append([]string{"nix", "build", "--no-link"}, paths(story.Lines)...)))
	get.BuildOptions.Substituters = []string{c.URL}
	get.BuildOptions.TrustedPublicKeys = []string{"default:" + fixture.PublicKey(t)}
	story = tell(t, schemas.Document, fixture.Env.Server, get)
	checkVerdict(t, story, "exited", 0)
	progress := last[schemas.ProgressEvent](story)
	if progress.Paths != (schemas.Counts{Done: 2, Expected: 2}) || progress.Bytes.Done != progress.Bytes.Expected || progress.Bytes.Done == 0 {
		t.Errorf("progress %+v", progress)
	}
	if !slices.Contains(story.Phases(), schemas.Build) || story.Verdict().Pushed != nil {
		t.Errorf("phases %v, verdict %+v", story.Phases(), story.Verdict())
	}
}

// paths returns the lines that are store paths.
func paths(lines []string) (paths []string) {
	for _, line := range lines {
		if strings.HasPrefix(line, "/nix/store/") {
			paths = append(paths, line)
		}
	}
	return paths
}

// TestForgedEvents runs a job that tries to send the server events, which only the builder's program may. It
// cannot, because it does not find the token.
func TestForgedEvents(t *testing.T) {
	script := `env | grep -c IGLU_ ; cat /proc/1/environ 2>/dev/null | wc -c; ` +
		`printf "\036AAAAAAAAAAAAAAAAAAAAAAAAAA.0019{\"commit\":\"%040d\"}\n" 7; printf "\036"; ` +
		`printf "\036{\"event\":{\"type\":\"phase\",\"phase\":\"push\"}}\n"; echo end`
	story := tell(t, schemas.Document, fixture.Env.Server, fixture.Command(shellwords.Join([]string{"sh", "-c", script})))
	checkVerdict(t, story, "exited", 0)
	want := []string{"0", "0", "\x1eAAAAAAAAAAAAAAAAAAAAAAAAAA.0019" + fmt.Sprintf(`{"commit":"%040d"}`, 7),
		"\x1e\x1e" + `{"event":{"type":"phase","phase":"push"}}`, "end"}
	var got []string
	for _, line := range story.Lines {
		if !strings.HasPrefix(line, "iglu: ") {
			got = append(got, line)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if story.Verdict().Commit != "" || slices.Contains(story.Phases(), schemas.PushRest) {
		t.Errorf("%v, %+v", story.Phases(), story.Verdict())
	}
}

// TestSecretsInEvents builds a derivation that prints a job's secrets. They are masked in its lines, in its last
// lines, and everywhere else, which fixture.Client checks.
func TestSecretsInEvents(t *testing.T) {
	script := fmt.Sprintf("echo key %s; echo %s; exit 1", fixture.APIKey, fixture.SigningKey)
	j := fixture.Command(nixBuild(fixture.Derivation("leak", script)))
	j.BuildOptions.Cachix.APIKey, j.BuildOptions.Cachix.SigningKey = fixture.APIKey, fixture.SigningKey
	story := tell(t, schemas.Document, fixture.Env.Server, j)
	states, lines := story.States("leak")
	want := []string{"key ***", "***"}
	if !slices.Equal(lines, want) || len(states) != 2 || !slices.Equal(states[1].Log, want) {
		t.Errorf("lines %q, states %+v", lines, states)
	}
}
