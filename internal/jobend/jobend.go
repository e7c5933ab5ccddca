// Package jobend names the ways in which a job ends. The server's log, its metrics, its
// history and its events use the names; in the other messages a client is told in sentences.
package jobend

// An End is how a job ended. It is an error as well, so that whoever ends a job can make it
// the cause with which the job's context ends.
type End string

// The ends of a job.
const (
	Exited      End = "exited"        // by itself, with an exit code
	Unpushed    End = "unpushed"      // likewise, but what it built could not be pushed
	OutOfMemory End = "out-of-memory" // a process of it was killed for taking too much
	Killed      End = "killed"        // its container was ended by somebody else
	TimedOut    End = "timed-out"     // it ran too long
	Silent      End = "silent"        // it printed nothing for too long
	Cancelled   End = "cancelled"     // its client said goodbye, or somebody cancelled it on the page
	ClientGone  End = "client-gone"   // its client went away without a word
	Shutdown    End = "shutdown"      // the builder shuts down
	NoImage     End = "no-image"      // its image is not there and cannot be pulled
	EngineGone  End = "engine-gone"   // the engine does not answer, or went away
	Interrupted End = "interrupted"   // its builder died; only the history says so, when it is back
	Failed      End = "failed"        // the builder or the engine could not do their part
)

// All are the ends that a running builder tells of.
var All = []End{Exited, Unpushed, OutOfMemory, Killed, TimedOut, Silent, Cancelled, ClientGone, Shutdown, NoImage, EngineGone, Failed}

// A Result says whether a job did what it was asked to and, if not, whose doing that was.
type Result string

// The results of jobs.
const (
	Success      Result = "success" // the build ended with exit code 0, and all is pushed that was to be
	BuildFailed  Result = "failure" // the build, its source, its cache or its client is why not
	BuilderError Result = "error"   // the builder or its engine is
)

// Results are all of them.
var Results = []Result{Success, BuildFailed, BuilderError}

// Result returns that of a job with an end, and an exit code if it exited.
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
