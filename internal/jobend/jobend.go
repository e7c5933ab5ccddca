// Package jobend defines the names of the ways in which a job can end. The server's log, metrics,
// history and events use these names. The other messages to clients use sentences.
package jobend

// An End is how a job ended. It is also an error, so that it can be the cause with which the job's
// context is cancelled.
type End string

// The ends of a job.
const (
	Exited      End = "exited"        // by itself, with an exit code
	Unpushed    End = "unpushed"      // likewise, but what it built could not be pushed
	OutOfMemory End = "out-of-memory" // one of its processes was killed because it used too much memory
	Killed      End = "killed"        // its container was stopped by someone else
	TimedOut    End = "timed-out"     // it ran too long
	Silent      End = "silent"        // it printed nothing for too long
	Cancelled   End = "cancelled"     // its client closed the connection properly, or someone cancelled it on the page
	ClientGone  End = "client-gone"   // the connection to its client was lost
	Shutdown    End = "shutdown"      // the builder shuts down
	NoImage     End = "no-image"      // its image is not present and cannot be pulled
	EngineGone  End = "engine-gone"   // the engine does not answer, or stopped
	Interrupted End = "interrupted"   // its builder crashed; used only in the history, after a restart
	Failed      End = "failed"        // another error of the builder or of the engine
)

// All are the ends that a running builder can report.
var All = []End{Exited, Unpushed, OutOfMemory, Killed, TimedOut, Silent, Cancelled, ClientGone, Shutdown, NoImage, EngineGone, Failed}

// A Result says whether a job succeeded and, if not, whose fault that was.
type Result string

// The results of jobs.
const (
	Success      Result = "success" // the build ended with exit code 0, and everything requested is pushed
	BuildFailed  Result = "failure" // caused by the build, its source, its cache or its client
	BuilderError Result = "error"   // caused by the builder or its engine
)

// Results are all values of Result.
var Results = []Result{Success, BuildFailed, BuilderError}

// Result returns the result of a job with this end. exitCode is used only for Exited.
func (e End) Result(exitCode int) Result {
	switch e {
	case Exited:
		if exitCode == 0 {
			return Success
		}
	case Killed, Shutdown, NoImage, EngineGone, Interrupted, Failed:
		return BuilderError
	}
	return BuildFailed
}

// Error returns the name of the end.
func (e End) Error() string { return string(e) }
