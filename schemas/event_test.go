package schemas

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var exitCode1 = 1

// events has events of each type, with all and with few properties, and their JSON.
var events = []struct {
	event Event
	json  string
}{
	{QueueEvent{Ahead: 0}, `{"type":"queue","ahead":0}`},
	{QueueEvent{Ahead: 12}, `{"type":"queue","ahead":12}`},
	{RetryEvent{Node: "n1"}, `{"type":"retry","node":"n1"}`},
	{JobEvent{ID: "a2"}, `{"type":"job","id":"a2"}`},
	{JobEvent{ID: "a2", URL: "https://example.com/jobs/a2"}, `{"type":"job","id":"a2","url":"https://example.com/jobs/a2"}`},
	{NodeEvent{Name: "node-1"}, `{"type":"node","name":"node-1"}`},
	{PhaseEvent{Evaluate}, `{"type":"phase","phase":"evaluate"}`},
	{PlanEvent{7, []PlannedDerivation{{Derivation: "/nix/store/a.drv"}, {"/nix/store/b.drv", []int{0}}}},
		`{"type":"plan","first":7,"derivations":[{"derivation":"/nix/store/a.drv"},{"derivation":"/nix/store/b.drv","needs":[0]}]}`},
	{DerivationEvent{Derivation: "/nix/store/a.drv", State: DerivationBuilding},
		`{"type":"derivation","derivation":"/nix/store/a.drv","state":"building"}`},
	{DerivationEvent{Derivation: "/nix/store/a.drv", State: DerivationFailed, Phase: "buildPhase", Log: []string{"a", `"b"`}},
		`{"type":"derivation","derivation":"/nix/store/a.drv","state":"failed","phase":"buildPhase","log":["a","\"b\""]}`},
	{LineEvent{Derivation: "/nix/store/a.drv", Text: "<b> \"\x1b[1m\u2028"},
		`{"type":"line","derivation":"/nix/store/a.drv","text":"<b> \"\u001b[1m\u2028"}`},
	{ProgressEvent{Derivations: Counts{1, 2, 3, 4}, Paths: Counts{5, 6, 7, 8}, Bytes: Share{9, 1 << 60}},
		`{"type":"progress","derivations":{"done":1,"running":2,"expected":3,"failed":4},` +
			`"paths":{"done":5,"running":6,"expected":7,"failed":8},"bytes":{"done":9,"expected":1152921504606846976}}`},
	{PushEvent{Paths: Share{1, 2}, Bytes: 3}, `{"type":"push","paths":{"done":1,"expected":2},"bytes":3}`},
	{ResultsEvent{Results: []Result{{Paths: []string{"/nix/store/a"}}}}, `{"type":"results","results":[{"paths":["/nix/store/a"]}]}`},
	{ResultsEvent{Results: []Result{{".#a", []string{"/nix/store/a"}}}, Pushed: &Pushed{1, 2}, Target: "https://example.com/a", Get: "nix-store"},
		`{"type":"results","results":[{"installable":".#a","paths":["/nix/store/a"]}],"pushed":{"paths":1,"bytes":2},"target":"https://example.com/a","get":"nix-store"}`},
	{VerdictEvent{End: "failed", Seconds: 0.5, Phases: []PhaseTime{}}, `{"type":"verdict","end":"failed","seconds":0.5,"phases":[]}`},
	{VerdictEvent{End: "exited", ExitCode: &exitCode1, Seconds: 1.2, PeakMemory: 123, CPUSeconds: 1.2,
		Phases: []PhaseTime{{Fetch, 0.1}}, Commit: "c0ffee", Image: "sha256:0", Pushed: &Pushed{3, 123}},
		`{"type":"verdict","end":"exited","exitCode":1,"seconds":1.2,"peakMemory":123,"cpuSeconds":1.2,` +
			`"phases":[{"phase":"fetch","seconds":0.1}],"commit":"c0ffee","image":"sha256:0","pushed":{"paths":3,"bytes":123}}`},
}

func TestEvents(t *testing.T) {
	for _, test := range events {
		got := string(AppendEvent([]byte("before"), test.event))
		if got != "before"+test.json {
			t.Errorf("got  %s\nwant %s", got, test.json)
		}
		back, err := ParseEvent([]byte(test.json))
		if diff := cmp.Diff(test.event, back); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", test.json, err, diff)
		}
	}
	if e, err := ParseEvent([]byte(`{"type":"of a later version","phase":1}`)); e != nil || err != nil {
		t.Errorf("an unknown type is %v, %v", e, err)
	}
	for _, spaced := range []string{`{ "type": "phase", "phase": "build" }`, `{"phase":"build","type":"phase"}`, `{"type":"ph\u0061se","phase":"build"}`} {
		if e, err := ParseEvent([]byte(spaced)); e != (PhaseEvent{Build}) || err != nil {
			t.Errorf("%s is %v, %v", spaced, e, err)
		}
	}
	for _, broken := range []string{``, `[]`, `{"type":1}`, `{"type":"phase","phase":1}`, `{"type":"phase"`, `{"type":"of a later version"`, `{"type":"phase`} {
		if e, err := ParseEvent([]byte(broken)); err == nil {
			t.Errorf("%s is %v", broken, e)
		}
	}
}

// A path that is a result of several installables is one path. Secrets are masked in all texts.
func TestResultsEvent(t *testing.T) {
	event := ResultsEvent{Target: "t", Get: "g", Results: []Result{
		{"a", []string{"/nix/store/a", "/nix/store/b"}}, {"b", []string{"/nix/store/b", "/nix/store/c"}}}}
	if diff := cmp.Diff([]string{"/nix/store/a", "/nix/store/b", "/nix/store/c"}, event.Paths()); diff != "" {
		t.Errorf("Paths (-want +got):\n%s", diff)
	}
	want := ResultsEvent{Target: "T", Get: "G", Results: []Result{
		{"A", []string{"/NIX/STORE/A", "/NIX/STORE/B"}}, {"B", []string{"/NIX/STORE/B", "/NIX/STORE/C"}}}}
	if diff := cmp.Diff(want, event.Map(strings.ToUpper)); diff != "" {
		t.Errorf("Map (-want +got):\n%s", diff)
	}
	if got := event.Results[0].Paths[0]; got != "/nix/store/a" {
		t.Errorf("Map changed the event itself: %s", got)
	}
	if got := (ResultsEvent{}).Map(strings.ToUpper); got.Results == nil {
		t.Error("no results are null in JSON, not an empty list")
	}
}

// TestLineEventAllocates counts the allocations for a line of a derivation, of which a job can have a million: the event is
// encoded at once, and its JSON is read once.
func TestLineEventAllocates(t *testing.T) {
	event := LineEvent{Derivation: "/nix/store/00000000000000000000000000000000-hello-2.12.drv", Text: strings.Repeat("text ", 20)}
	data := AppendEvent(nil, event)
	for what, test := range map[string]struct {
		most float64
		do   func()
	}{
		"AppendEvent": {3, func() { AppendEvent(nil, event) }}, // one is for the event as an interface, and one for the race detector
		"ParseEvent":  {9, func() { ParseEvent(data) }},
	} {
		if got := testing.AllocsPerRun(100, test.do); got > test.most {
			t.Errorf("%s: %v allocations", what, got)
		}
	}
}

// A client of events gets the same messages as others, with more properties at the end.
func TestAppendMessage(t *testing.T) {
	const stamp = `,"seq":7,"time":"2025-12-01T12:00:00.123Z"`
	accepted, last := Accepted(), Exited(1)
	event := AppendEvent(nil, PhaseEvent{Build})
	for _, form := range forms {
		for _, test := range []struct {
			message Message
			plain   Response
			more    string
		}{
			{Message{Response: &accepted}, accepted, stamp},
			{Message{Response: &last, Event: event}, last, stamp + `,"event":{"type":"phase","phase":"build"}`},
			{Message{Event: event}, Response{JobStatus: Running}, stamp + `,"event":{"type":"phase","phase":"build"}`},
			{Message{Stream: Stderr, Line: []byte(`a "b"`)}, Output(`a "b"`), stamp + `,"stream":"stderr"`},
			{Message{Stream: Server, Line: []byte{}}, Output(""), stamp + `,"stream":"builder"`},
		} {
			test.message.Seq, test.message.Time = 7, sentAt.UTC()
			plain := form.Encode(test.plain, sentAt)
			want := string(plain[:len(plain)-1]) + test.more + "}"
			got := form.AppendMessage([]byte("before"), &test.message)
			if string(got) != "before"+want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			back, err := ParseMessage([]byte(want))
			if r := back.Response; r != nil && form == Stack {
				r.ChildExitCode = r.BuildExitCode // which that format does not have
			}
			if diff := cmp.Diff(test.message, back); diff != "" || err != nil {
				t.Errorf("%s: %v (-want +got):\n%s", want, err, diff)
			}
		}
	}
	for _, broken := range []string{``, `[]`, `{"seq":"1"}`, `{"time":"now"}`} {
		if _, err := ParseMessage([]byte(broken)); err == nil {
			t.Errorf("%s is a message", broken)
		}
	}
}

// ParseMessage also reads messages for clients without events.
func TestParsePlainMessage(t *testing.T) {
	line, busy := Message{Stream: Stdout, Line: []byte("a")}, Busy()
	for message, want := range map[string]Message{
		string(Output("a").Encode()): line,
		string(Busy().Encode()):      {Response: &busy},
	} {
		if got, err := ParseMessage([]byte(message)); err != nil || cmp.Diff(want, got) != "" || got.Last() {
			t.Errorf("%s is %+v, %v", message, got, err)
		}
	}
}

// TestMessageTime formats times with each number of digits in their milliseconds, in another zone too.
func TestMessageTime(t *testing.T) {
	for _, at := range []time.Time{
		time.UnixMilli(0), time.UnixMilli(7), time.UnixMilli(1_790_000_000_042), time.UnixMilli(1_790_000_000_999),
		time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.FixedZone("", 2*60*60)),
	} {
		m := Message{Seq: 1, Time: at, Stream: Stdout}
		want := `"time":"` + at.UTC().Format("2006-01-02T15:04:05.000Z") + `"`
		if got := string(Document.AppendMessage(nil, &m)); !strings.Contains(got, want) {
			t.Errorf("%v: got %s, want %s", at, got, want)
		}
	}
}

// FuzzMessageLines compares the lines of AppendMessage with a decoder, and CutOutput with both.
func FuzzMessageLines(f *testing.F) {
	for _, line := range []string{"", "plain", `"q" \`, `","jobStatus":"running","seq":1,"time":"`, "\x00\u2028", "日本", strings.Repeat("a", 300)} {
		f.Add(line, int64(1))
	}
	f.Fuzz(func(t *testing.T, line string, seq int64) {
		if !utf8.ValidString(line) || seq < 0 {
			return
		}
		for _, form := range forms {
			m := Message{Seq: seq, Time: sentAt.UTC(), Stream: Stderr, Line: []byte(line)}
			encoded := form.AppendMessage(nil, &m)
			if !json.Valid(encoded) {
				t.Fatalf("not JSON: %s", encoded)
			}
			if back, err := ParseMessage(encoded); err != nil || cmp.Diff(m, back) != "" {
				t.Errorf("%s is %+v, %v", encoded, back, err)
			}
			cut, ok := CutOutput(encoded)
			if plain := !strings.Contains(string(encoded), `\`); ok != plain || (ok && string(cut) != line) {
				t.Errorf("%s was cut to %q, %v", encoded, cut, ok)
			}
		}
	})
}

func BenchmarkAppendMessage(b *testing.B) {
	m := Message{Seq: 1, Time: sentAt, Stream: Stdout, Line: []byte(strings.Repeat("x", 77))}
	for _, form := range forms {
		b.Run(formNames[form], func(b *testing.B) {
			dst := make([]byte, 0, 1024)
			b.ReportAllocs()
			for b.Loop() {
				dst = form.AppendMessage(dst[:0], &m)
			}
		})
	}
}

// TestProtocolVersion checks that the documents have the version of events that server and client use.
func TestProtocolVersion(t *testing.T) {
	for _, name := range []string{"asyncapi.yaml", "protocol.md", "client.md"} {
		text, err := os.ReadFile("../docs/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, spoken := range regexp.MustCompile(`iglu-events\.v\w+`).FindAllString(string(text), -1) {
			if spoken != EventsProtocol {
				t.Errorf("docs/%s is about %s, not about %s", name, spoken, EventsProtocol)
			}
		}
		major := regexp.MustCompile(`(?m)^  version: (\d+)\.`).FindStringSubmatch(string(text))
		if name == "asyncapi.yaml" && (major == nil || EventsProtocol != "iglu-events.v"+major[1]) {
			t.Errorf("docs/%s is of version %q, not of that of %s", name, major, EventsProtocol)
		}
	}
}
