package orchestrator

import (
	"errors"

	"iglu.sh/builder/schemas"
)

// A Verdict is how a job ended.
type Verdict struct {
	ExitCode int    // of the container, if Err is nil
	Unpushed string // what could not be pushed though the build succeeded, or nothing
	Err      error  // why there is no exit code: the job could not be run to its end
}

// Response returns the message that tells a client.
func (v Verdict) Response() schemas.Response {
	if v.Err == nil && v.Unpushed != "" {
		return schemas.NotPushed(v.ExitCode, v.Unpushed)
	}
	if v.Err == nil {
		return schemas.Exited(v.ExitCode)
	}
	if f, ok := errors.AsType[*failure](v.Err); ok {
		return schemas.Unable(f.sentence)
	}
	if c, ok := errors.AsType[*cancelled](v.Err); ok {
		return schemas.Unable(c.Error() + ".")
	}
	return schemas.Unable("The builder could not run the job to its end. Its own log says why.")
}

// cancelled says that a job was ended before its time.
type cancelled struct{ cause error }

func (c *cancelled) Error() string { return "The job was cancelled: " + c.cause.Error() }
func (c *cancelled) Unwrap() error { return c.cause }

// A failure is an error with a sentence for the client: what is wrong and what to
// do about it. The cause is for the server's log.
type failure struct {
	sentence string
	cause    error
}

func (f *failure) Error() string { return f.sentence + " (" + f.cause.Error() + ")" }
func (f *failure) Unwrap() error { return f.cause }
