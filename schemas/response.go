package schemas

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Status is the state of a job in a Response.
type Status string

// The states of a job, with the documentation's names.
const (
	Starting Status = "starting" // accepted, nothing printed yet
	Running  Status = "running"  // a line of output
	Success  Status = "success"  // ended with exit code 0
	Failed   Status = "failed"   // refused, or ended otherwise
)

// Response is one message from the builder to its client.
type Response struct {
	Error string `json:"error,omitempty"`
	Msg   string `json:"msg,omitempty"`
	// Stdout is one line of the job's output without its line end. It is a
	// pointer because an empty line is a line.
	Stdout *string `json:"stdout,omitempty"`
	// BuildExitCode and ChildExitCode are the same number: the documentation has both names. withExitCode
	// sets both.
	BuildExitCode *int   `json:"buildExitCode,omitempty"`
	ChildExitCode *int   `json:"childExitCode,omitempty"`
	JobStatus     Status `json:"jobStatus"`
}

// Encode returns the message in the format Document, as one line of JSON without a line end.
func (r Response) Encode() []byte { return encode(r) }

func encode(message any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(message); err != nil {
		panic(fmt.Sprintf("schemas: a Response always encodes: %v", err))
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte{'\n'})
}

// withExitCode returns r with the exit code in both properties.
func (r Response) withExitCode(code int) Response {
	r.BuildExitCode, r.ChildExitCode = &code, &code
	return r
}

// Busy returns the answer if the builder has no free slot, or for a second job on a connection.
func Busy() Response {
	return Response{Error: "A build job is already running.", JobStatus: Running}
}

// Accepted returns the first message of a valid job, which will run.
func Accepted() Response {
	return Response{Msg: "Start Building", JobStatus: Starting}
}

// Output returns the message with one line of the job's output.
func Output(line string) Response {
	return Response{Stdout: &line, JobStatus: Running}
}

// Exited returns the last message of a job whose container has ended: success for code 0, otherwise failure.
func Exited(code int) Response {
	if code == 0 {
		return Response{Msg: "Build was successfull", JobStatus: Success}.withExitCode(0)
	}
	return Response{
		Error:     fmt.Sprintf("Something went wrong while building. Builder exited with error code %d", code),
		JobStatus: Failed,
	}.withExitCode(code)
}

// Unable returns the last message of a job that the builder could not run: what is wrong, and what to do. Both
// are sentences for the client and contain no secrets.
func Unable(what, advice string) Response {
	return Response{Error: what, Msg: advice, JobStatus: Failed}
}
