package schemas

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// sentAt is the time of the messages in the tests.
var sentAt = time.UnixMilli(1764590400123)

// responseOracle returns the oracle for messages in a format.
func responseOracle(t testing.TB, form Format) *jsonschema.Schema {
	return oracle(t, map[Format][]byte{Document: ResponseSchema, Stack: StackResponseSchema}[form])
}

// checkResponse checks a message against the published schema and against rules that the schema cannot express: one
// line, and in the format Document the exit code with both names or none.
func checkResponse(t *testing.T, form Format, schema *jsonschema.Schema, r Response) {
	t.Helper()
	data := form.Encode(r, sentAt)
	document, ok := oneDocument(data)
	if !ok || bytes.ContainsAny(data, "\r\n") {
		t.Fatalf("not one line of JSON: %q", data)
	}
	if err := schema.Validate(document); err != nil {
		t.Errorf("%s: %v", data, err)
	}
	properties := document.(map[string]any)
	if form == Document && properties["buildExitCode"] != properties["childExitCode"] {
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

var update = flag.Bool("update", false, "write the golden files anew")

// TestMessages compares every kind of message in each format, byte for byte, with a file
// testdata/FORMAT/MESSAGE.json. To write the files again: go test ./schemas -run TestMessages -update
func TestMessages(t *testing.T) {
	messages := map[string]Response{
		"busy":              Busy(),
		"accepted":          Accepted(),
		"output":            Output("building '/nix/store/hello.drv'..."),
		"output-empty":      Output(""),
		"output-quotes":     Output("<a href=\"x\">&</a> \\ \t/"),
		"output-separators": Output("NUL \x00 and U+2028 \u2028 and U+2029 \u2029 in a line"),
		"output-colours":    Output("\x1b[31;1merror:\x1b[0m 枝 😀 \ufffd \x7f"),
		"exited-0":          Exited(0),
		"exited-1":          Exited(1),
		"exited-100":        Exited(100),
		"exited-137":        Exited(137),
		"not-pushed":        withMsg(Exited(75), "The build itself succeeded, but 1 of 3 paths could not be pushed."),
		"unable":            Unable("The engine does not answer.", "Is <docker> running & reachable?"),
		"not-json":          refused(t, ""),
		"both-forms":        refused(t, `{"git":{"noClone":true},"git_config":{"noclone":true}}`),
	}
	for name, job := range map[string]string{
		"missing-property":  jobWith(edits{"git.noClone": missing}),
		"wrong-type":        jobWith(edits{"git.branch": 7}),
		"missing-companion": jobWith(edits{"git.repository": missing}),
		"wrong-number":      jobWith(edits{"buildOptions.maxJobs": 0}),
		"invalid-command":   jobWith(edits{"buildOptions.command": "make <all> && 'is' \"done\""}),
	} {
		messages[name] = refused(t, job)
		inStack, ok := translated(job)
		if !ok {
			t.Fatalf("%s: not to be had in today's form", name)
		}
		messages["stack/"+name] = refused(t, inStack)
	}
	for _, form := range forms {
		var want []string
		for name, message := range messages {
			switch other, isStack := messages["stack/"+name]; {
			case strings.HasPrefix(name, "stack/"):
				continue
			case isStack && form == Stack:
				message = other
			}
			want = append(want, name+".json")
			checkGolden(t, filepath.Join("testdata", formNames[form], name+".json"), form.Encode(message, sentAt))
			checkResponse(t, form, responseOracle(t, form), message)
		}
		checkFolder(t, filepath.Join("testdata", formNames[form]), want)
	}
}

func withMsg(r Response, msg string) Response {
	r.Msg = msg
	return r
}

// checkGolden compares a message with the line of a file.
func checkGolden(t *testing.T, name string, message []byte) {
	t.Helper()
	message = append(message, '\n')
	if *update {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, message, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(golden), string(message)); diff != "" {
		t.Errorf("%s (-golden +got):\n%s", name, diff)
	}
}

// checkFolder checks that a folder has only these files. No test would read others.
func checkFolder(t *testing.T, folder string, want []string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", folder, diff)
	}
}

// Every exit code of a container is sent, with both names in the format Document, and only 0 is a success.
func TestExited(t *testing.T) {
	for _, form := range forms {
		schema := responseOracle(t, form)
		for code := range 256 {
			r := Exited(code)
			checkResponse(t, form, schema, r)
			if *r.BuildExitCode != code || *r.ChildExitCode != code || (r.JobStatus == Success) != (code == 0) {
				t.Errorf("exit code %d: %s", code, r.Encode())
			}
			exitCode := fmt.Sprintf(`"buildExitCode":%d,`, code)
			if got := string(form.Encode(r, sentAt)); !strings.Contains(got, exitCode) || strings.Contains(got, "childExitCode") != (form == Document) {
				t.Errorf("%s: exit code %d: %s", formNames[form], code, got)
			}
		}
	}
}

// A line is the same after encoding and decoding.
func TestOutputSurvivesJSON(t *testing.T) {
	var lines []string
	for r := rune(0); r < 0x400; r++ {
		lines = append(lines, "a"+string(r)+"b")
	}
	lines = append(lines, "", "\u2028", "\u2029", "\ufeff", "\ufffd", "\uffff", "\U0010ffff", strings.Repeat("x", 1<<20))
	for _, form := range forms {
		schema := responseOracle(t, form)
		for _, line := range lines {
			var got Response
			if err := json.Unmarshal(form.Encode(Output(line), sentAt), &got); err != nil {
				t.Errorf("%q: %v", line, err)
				continue
			}
			if diff := cmp.Diff(Output(line), got); diff != "" {
				t.Errorf("%q (-sent +received):\n%s", line, diff)
			}
			checkResponse(t, form, schema, Output(line))
		}
	}
}

// The published schema is that of the documentation and refuses everything else.
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

// That of today's stack has the time, and one name for the exit code.
func TestStackResponseSchema(t *testing.T) {
	schema := oracle(t, StackResponseSchema)
	for data, ok := range map[string]bool{
		`{"msg":"Build was successfull","buildExitCode":0,"jobStatus":"success","timestamp":1764590400123}`: true,
		`{"stdout":"","jobStatus":"running","timestamp":0}`:                                                 true,
		`{"stdout":"","jobStatus":"running"}`:                                                               false,
		`{"stdout":"","jobStatus":"running","timestamp":"2025-12-01"}`:                                      false,
		`{"childExitCode":2,"jobStatus":"failed","timestamp":1}`:                                            false,
	} {
		document, isJSON := oneDocument([]byte(data))
		if err := schema.Validate(document); !isJSON || (err == nil) != ok {
			t.Errorf("%s: error %v, want it allowed: %v", data, err, ok)
		}
	}
}

func TestLast(t *testing.T) {
	busy, accepted, output, succeeded, failed := Busy(), Accepted(), Output("a"), Exited(0), Exited(1)
	for response, want := range map[*Response]bool{nil: false, &busy: false, &accepted: false, &output: false, &succeeded: true, &failed: true} {
		if m := (Message{Response: response}); m.Last() != want {
			t.Errorf("%+v: last is %t", response, m.Last())
		}
	}
}
