package schemas_test

import (
	"errors"
	"fmt"
	"time"

	"iglu.sh/builder/schemas"
)

// The builder's side: parse a job, and encode the messages that answer it.
func Example() {
	job := `{
		"git": {"repository": "https://git.example.com/hello", "noClone": false},
		"buildOptions": {"command": "nix build", "cachix": {"push": false}}
	}`
	request, form, err := schemas.ParseRequest([]byte(job), []string{"nix", "nix-build"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("build", request.Git.Repository, "with", request.BuildOptions.Command)

	now := time.UnixMilli(1764590400123)
	for _, response := range []schemas.Response{schemas.Accepted(), schemas.Output("building hello"), schemas.Exited(0)} {
		fmt.Printf("%s\n", form.Encode(response, now))
	}
	// Output:
	// build https://git.example.com/hello with nix build
	// {"msg":"Start Building","jobStatus":"starting"}
	// {"stdout":"building hello","jobStatus":"running"}
	// {"msg":"Build was successfull","buildExitCode":0,"childExitCode":0,"jobStatus":"success"}
}

// A message that is not a job is refused with everything that is wrong with it.
func ExampleParseRequest_refusal() {
	job := `{
		"git": {"repositry": "https://git.example.com/hello", "noClone": false},
		"buildOptions": {"command": "nix build", "cachix": {"push": "no"}}
	}`
	_, form, err := schemas.ParseRequest([]byte(job), []string{"nix"})
	if refusal, ok := errors.AsType[*schemas.Refusal](err); ok {
		fmt.Printf("%s\n", form.Encode(refusal.Response(), time.Now()))
	}
	// Output:
	// {"error":"JSON schema is not valid.","msg":"git: has a property that the schema does not know; did you mean repository?; buildOptions.cachix.push: must be true or false","jobStatus":"failed"}
}

// A job in the format of today's Iglu stack becomes the same Request, and is answered in its own format.
func ExampleParseRequest_stack() {
	job := `{
		"git_config": {"repository": "https://git.example.com/hello", "noclone": false},
		"build_options": {"command": "nix build"},
		"cachix_config": {"push": false}
	}`
	request, form, err := schemas.ParseRequest([]byte(job), []string{"nix"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("build", request.Git.Repository)
	fmt.Printf("%s\n", form.Encode(schemas.Exited(0), time.UnixMilli(1764590400123)))
	// Output:
	// build https://git.example.com/hello
	// {"msg":"Build was successfull","buildExitCode":0,"jobStatus":"success","timestamp":1764590400123}
}

// The client's side: read a message of a client of events.
func ExampleParseMessage() {
	m, err := schemas.ParseMessage([]byte(`{"jobStatus":"running","seq":2,"time":"2025-12-01T12:00:00.124Z","event":{"type":"phase","phase":"create"}}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	event, err := schemas.ParseEvent(m.Event)
	if err != nil {
		fmt.Println(err)
		return
	}
	switch e := event.(type) {
	case schemas.PhaseEvent:
		fmt.Printf("message %d: the phase %s begins\n", m.Seq, e.Phase)
	case nil:
		fmt.Println("an event of a later version")
	}
	// Output:
	// message 2: the phase create begins
}
