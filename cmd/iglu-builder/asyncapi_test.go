package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"iglu.sh/builder/schemas"
)

// docs/asyncapi.yaml describes the messages for programs. Each message that a client of the
// tests gets is checked against it.

// messageKind says which of the file's messages a client gets.
type messageKind struct {
	form   schemas.Form
	events bool
}

var namesOfKinds = map[messageKind]string{
	{schemas.Document, false}: "plain",
	{schemas.Stack, false}:    "stackPlain",
	{schemas.Document, true}:  "events",
	{schemas.Stack, true}:     "stackEvents",
}

const asyncAPIFile = "../../docs/asyncapi.yaml"

// asyncAPI returns the file as JSON has it.
func asyncAPI() (any, error) {
	text, err := os.ReadFile(asyncAPIFile)
	if err != nil {
		return nil, err
	}
	var document any
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	asJSON, err := json.Marshal(document)
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
}

// compileAsyncAPI returns the schema of the payload of each kind of message, in which
// references lead to the published schemas.
func compileAsyncAPI() (map[messageKind]*jsonschema.Schema, error) {
	document, err := asyncAPI()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", asyncAPIFile, err)
	}
	compiler := jsonschema.NewCompiler()
	resources := map[string]any{"file:///docs/asyncapi.yaml": document}
	for name, text := range map[string][]byte{
		"request": schemas.RequestSchema, "response": schemas.ResponseSchema,
		"stack-request": schemas.StackRequestSchema, "stack-response": schemas.StackResponseSchema,
	} {
		if resources["file:///schemas/"+name+".schema.json"], err = jsonschema.UnmarshalJSON(bytes.NewReader(text)); err != nil {
			return nil, err
		}
	}
	for url, resource := range resources {
		if err := compiler.AddResource(url, resource); err != nil {
			return nil, err
		}
	}
	compiled := make(map[messageKind]*jsonschema.Schema)
	for kind, name := range namesOfKinds {
		if compiled[kind], err = compiler.Compile("file:///docs/asyncapi.yaml#/components/messages/" + name + "/payload"); err != nil {
			return nil, err
		}
	}
	return compiled, nil
}

// TestAsyncAPI holds the file against the schema of AsyncAPI 3.0, which is that of the npm
// package @asyncapi/specs, and its examples against itself.
func TestAsyncAPI(t *testing.T) {
	document, err := asyncAPI()
	if err != nil {
		t.Fatal(err)
	}
	specification, err := os.ReadFile("testdata/asyncapi/3.0.0.json")
	if err != nil {
		t.Fatal(err)
	}
	schema, err := compileSchema(specification)
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(document); err != nil {
		t.Errorf("%s: %v", asyncAPIFile, err)
	}
	examples := 0
	messages := document.(map[string]any)["components"].(map[string]any)["messages"].(map[string]any)
	for kind, name := range namesOfKinds {
		for _, example := range messages[name].(map[string]any)["examples"].([]any) {
			examples++
			if err := world.messages[kind].Validate(example.(map[string]any)["payload"]); err != nil {
				t.Errorf("an example of %s: %v", name, err)
			}
		}
	}
	if examples < 8 {
		t.Errorf("only %d examples", examples)
	}
	// The schema is one that finds mistakes.
	delete(document.(map[string]any), "info")
	if schema.Validate(document) == nil {
		t.Error("without its title the file is valid, too")
	}
}

// TestMessageKinds has each kind's schema refuse the other kinds' examples.
func TestMessageKinds(t *testing.T) {
	for message, kinds := range map[string][]messageKind{
		`{"stdout":"","jobStatus":"running"}`:                                                                                                              {{schemas.Document, false}},
		`{"stdout":"","jobStatus":"running","timestamp":1}`:                                                                                                {{schemas.Stack, false}},
		`{"stdout":"","jobStatus":"running","seq":2,"time":"2025-12-01T12:00:00.123Z","stream":"stdout"}`:                                                  {{schemas.Document, true}},
		`{"stdout":"","jobStatus":"running","timestamp":1,"seq":2,"time":"2025-12-01T12:00:00.123Z","stream":"stdout"}`:                                    {{schemas.Stack, true}},
		`{"error":"","jobStatus":"running"}`:                                                                                                               {{schemas.Document, false}, {schemas.Document, true}},
		`{"jobStatus":"running","seq":2,"time":"2025-12-01T12:00:00.123Z","event":{"type":"phase","phase":"rest"}}`:                                        nil,
		`{"jobStatus":"running","seq":0,"time":"2025-12-01T12:00:00.123Z","event":{"type":"phase","phase":"done"}}`:                                        nil,
		`{"msg":"Build was successfull","buildExitCode":0,"childExitCode":0,"jobStatus":"success","seq":9,"time":"2025-12-01T12:00:00.123Z"}`:              nil,
		`{"jobStatus":"running","seq":2,"time":"2025-12-01T12:00:00.123Z","event":{"type":"line","derivation":"","text":""}}`:                              {{schemas.Document, true}},
		`{"jobStatus":"running","seq":2,"time":"2025-12-01T12:00:00.123Z","event":{"type":"verdict","end":"exited","exitCode":0,"seconds":1,"phases":[]}}`: nil,
	} {
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(message)))
		if err != nil {
			t.Fatal(err)
		}
		for kind, name := range namesOfKinds {
			want := false
			for _, k := range kinds {
				want = want || k == kind
			}
			if err := world.messages[kind].Validate(value); (err == nil) != want {
				t.Errorf("%s as %s: %v", message, name, err)
			}
		}
	}
}
