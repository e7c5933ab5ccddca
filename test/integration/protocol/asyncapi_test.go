//go:build integration

package protocol

import (
	"bytes"
	"os"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"iglu.sh/builder/schemas"
	"iglu.sh/builder/test/kit/fixture"
)

// TestAsyncAPI validates docs/asyncapi.yaml with the schema of AsyncAPI 3.0, from the npm package @asyncapi/specs,
// and the examples in the file with its own schemas.
func TestAsyncAPI(t *testing.T) {
	document, err := fixture.AsyncAPI()
	if err != nil {
		t.Fatal(err)
	}
	specification, err := os.ReadFile("testdata/asyncapi/3.0.0.json")
	if err != nil {
		t.Fatal(err)
	}
	schema, err := fixture.CompileSchema(specification)
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(document); err != nil {
		t.Errorf("%s: %v", fixture.AsyncAPIFile, err)
	}
	examples := 0
	messages := document.(map[string]any)["components"].(map[string]any)["messages"].(map[string]any)
	for kind, name := range fixture.NamesOfKinds {
		for _, example := range messages[name].(map[string]any)["examples"].([]any) {
			examples++
			if err := fixture.Env.Messages[kind].Validate(example.(map[string]any)["payload"]); err != nil {
				t.Errorf("an example of %s: %v", name, err)
			}
		}
	}
	if examples < 8 {
		t.Errorf("only %d examples", examples)
	}
	// The schema finds mistakes.
	delete(document.(map[string]any), "info")
	if schema.Validate(document) == nil {
		t.Error("the file is also valid without its title")
	}
}

// TestMessageKinds checks that the schema of each kind of message rejects the examples of the other kinds.
func TestMessageKinds(t *testing.T) {
	for message, kinds := range map[string][]fixture.MessageKind{
		`{"stdout":"","jobStatus":"running"}`:                                                                                                              {{Format: schemas.Document, Events: false}},
		`{"stdout":"","jobStatus":"running","timestamp":1}`:                                                                                                {{Format: schemas.Stack, Events: false}},
		`{"stdout":"","jobStatus":"running","seq":2,"time":"2025-12-01T12:00:00.123Z","stream":"stdout"}`:                                                  {{Format: schemas.Document, Events: true}},
		`{"stdout":"","jobStatus":"running","timestamp":1,"seq":2,"time":"2025-12-01T12:00:00.123Z","stream":"stdout"}`:                                    {{Format: schemas.Stack, Events: true}},
		`{"error":"","jobStatus":"running"}`:                                                                                                               {{Format: schemas.Document, Events: false}, {Format: schemas.Document, Events: true}},
		`{"jobStatus":"running","seq":2,"time":"2025-12-01T12:00:00.123Z","event":{"type":"phase","phase":"rest"}}`:                                        nil,
		`{"jobStatus":"running","seq":0,"time":"2025-12-01T12:00:00.123Z","event":{"type":"phase","phase":"done"}}`:                                        nil,
		`{"msg":"Build was successfull","buildExitCode":0,"childExitCode":0,"jobStatus":"success","seq":9,"time":"2025-12-01T12:00:00.123Z"}`:              nil,
		`{"jobStatus":"running","seq":2,"time":"2025-12-01T12:00:00.123Z","event":{"type":"line","derivation":"","text":""}}`:                              {{Format: schemas.Document, Events: true}},
		`{"jobStatus":"running","seq":2,"time":"2025-12-01T12:00:00.123Z","event":{"type":"verdict","end":"exited","exitCode":0,"seconds":1,"phases":[]}}`: nil,
	} {
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(message)))
		if err != nil {
			t.Fatal(err)
		}
		for kind, name := range fixture.NamesOfKinds {
			want := false
			for _, k := range kinds {
				want = want || k == kind
			}
			if err := fixture.Env.Messages[kind].Validate(value); (err == nil) != want {
				t.Errorf("%s as %s: %v", message, name, err)
			}
		}
	}
}
