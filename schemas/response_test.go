package schemas

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// checkResponse holds a message against the published schema and the rules that it
// cannot express: one line, and an exit code under both names or neither.
func checkResponse(t *testing.T, schema *jsonschema.Schema, r Response) {
	t.Helper()
	data := r.Encode()
	document, ok := oneDocument(data)
	if !ok || bytes.ContainsAny(data, "\r\n") {
		t.Fatalf("not one line of JSON: %q", data)
	}
	if err := schema.Validate(document); err != nil {
		t.Errorf("%s: %v", data, err)
	}
	properties := document.(map[string]any)
	if properties["buildExitCode"] != properties["childExitCode"] {
		t.Errorf("%s: the two exit codes differ", data)
	}
}

// refused returns the message for a job that ParseRequest refuses.
func refused(t *testing.T, data string) Response {
	t.Helper()
	_, refusal := actual(t, []byte(data))
	if refusal == nil {
		t.Fatalf("accepted: %s", data)
	}
	return refusal.Response()
}

// TestMessages compares every kind of message, byte for byte, with the line of the
// same place in testdata/messages.jsonl.
func TestMessages(t *testing.T) {
	golden, err := os.ReadFile("testdata/messages.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	messages := []Response{
		Busy(),
		Accepted(),
		Output("building '/nix/store/hello.drv'..."),
		Output(""),
		Output("<a href=\"x\">&</a> \\ \t/"),
		Output("NUL \x00 and U+2028 \u2028 and U+2029 \u2029 in a line"),
		Output("\x1b[31;1merror:\x1b[0m 枝 😀 \ufffd \x7f"),
		Exited(0),
		Exited(1),
		Exited(100),
		Exited(137),
		Unable("The engine does not answer.", "Is <docker> running & reachable?"),
		refused(t, ""),
		refused(t, jobWith(edits{"git.noClone": missing})),
		refused(t, jobWith(edits{"git.branch": 7})),
		refused(t, jobWith(edits{"git.repository": missing})),
		refused(t, jobWith(edits{"buildOptions.maxJobs": 0})),
		refused(t, jobWith(edits{"buildOptions.command": "make <all> && 'is' \"done\""})),
	}
	var got strings.Builder
	for _, message := range messages {
		got.Write(message.Encode())
		got.WriteByte('\n')
	}
	if diff := cmp.Diff(strings.Split(string(golden), "\n"), strings.Split(got.String(), "\n")); diff != "" {
		t.Errorf("messages (-golden +got):\n%s", diff)
	}
	schema := oracle(t, ResponseSchema)
	for _, message := range messages {
		checkResponse(t, schema, message)
	}
}

// Every exit code that a container can have is sent under both names, and only 0 is
// a success.
func TestExited(t *testing.T) {
	schema := oracle(t, ResponseSchema)
	for code := range 256 {
		r := Exited(code)
		checkResponse(t, schema, r)
		if *r.BuildExitCode != code || *r.ChildExitCode != code || (r.JobStatus == Success) != (code == 0) {
			t.Errorf("exit code %d: %s", code, r.Encode())
		}
	}
}

// What a line is before it is encoded, it is after it is decoded.
func TestOutputSurvivesJSON(t *testing.T) {
	schema := oracle(t, ResponseSchema)
	var lines []string
	for r := rune(0); r < 0x400; r++ {
		lines = append(lines, "a"+string(r)+"b")
	}
	lines = append(lines, "", "\u2028", "\u2029", "\ufeff", "\ufffd", "\uffff", "\U0010ffff", strings.Repeat("x", 1<<20))
	for _, line := range lines {
		var got Response
		if err := json.Unmarshal(Output(line).Encode(), &got); err != nil {
			t.Errorf("%q: %v", line, err)
			continue
		}
		if diff := cmp.Diff(Output(line), got); diff != "" {
			t.Errorf("%q (-sent +received):\n%s", line, diff)
		}
		checkResponse(t, schema, Output(line))
	}
}

// The published schema is the documentation's: what that leaves out, it refuses.
func TestResponseSchema(t *testing.T) {
	schema := oracle(t, ResponseSchema)
	for data, ok := range map[string]bool{
		`{"error":"A build job is already running.","jobStatus":"running"}`:                                    true,
		`{"msg":"Build was successfull","buildExitCode":0,"childExitCode":0,"jobStatus":"success"}`:            true,
		`{"error":"Invalid command: 'YOUR_COMMAND'","buildExitCode":2,"childExitCode":2,"jobStatus":"failed"}`: true,
		`{"childExitCode":2,"jobStatus":"failed"}`:                                                             true,
		`{"msg":"Start Building"}`:                    false,
		`{"msg":"Start Building","jobStatus":"done"}`: false,
		`{"stdout":null,"jobStatus":"running"}`:       false,
		`{"stderr":"x","jobStatus":"running"}`:        false,
		`{"buildExitCode":"2","jobStatus":"failed"}`:  false,
		`[]`: false,
	} {
		document, isJSON := oneDocument([]byte(data))
		if err := schema.Validate(document); !isJSON || (err == nil) != ok {
			t.Errorf("%s: error %v, want it allowed: %v", data, err, ok)
		}
	}
}
