package schemas

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Status is what a Response says of its job.
type Status string

// The states of a job, as the documentation names them.
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
	// BuildExitCode and ChildExitCode are the same number under the two names
	// that the documentation gives it. Set both with WithExitCode.
	BuildExitCode *int   `json:"buildExitCode,omitempty"`
	ChildExitCode *int   `json:"childExitCode,omitempty"`
	JobStatus     Status `json:"jobStatus"`
}

// Encode returns the message in the document's form, as one line of JSON without a line
// end.
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

// WithExitCode returns r with the exit code under both of its names.
func (r Response) WithExitCode(code int) Response {
	r.BuildExitCode, r.ChildExitCode = &code, &code
	return r
}

// Busy answers a client that is not the only one, or a second job on a connection.
func Busy() Response {
	return Response{Error: "A build job is already running.", JobStatus: Running}
}

// Accepted says that a job was understood and is about to run.
func Accepted() Response {
	return Response{Msg: "Start Building", JobStatus: Starting}
}

// Output carries one line of the job's output.
func Output(line string) Response {
	return Response{Stdout: &line, JobStatus: Running}
}

// Exited reports how the job's container ended: success for code 0, else failure.
func Exited(code int) Response {
	if code == 0 {
		return Response{Msg: "Build was successfull", JobStatus: Success}.WithExitCode(0)
	}
	return Response{
		Error:     fmt.Sprintf("Something went wrong while building. Builder exited with error code %d", code),
		JobStatus: Failed,
	}.WithExitCode(code)
}

// Unable says that the builder itself could not run the job: what is wrong, and what to do
// about it. Both are sentences for the client and hold no secret.
func Unable(what, advice string) Response {
	return Response{Error: what, Msg: advice, JobStatus: Failed}
}
