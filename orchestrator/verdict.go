package orchestrator

import (
	"errors"
	"log/slog"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/schemas"
)

// A Verdict is how a job ended, and what there is to say of it then. The last message, the
// log and the metrics all say what it says.
type Verdict struct {
	ExitCode int   // of the container; 0 if it has none and Err is set
	Err      error // why the job did not end by itself; nil if it did

	Duration time.Duration
	Phases   []schemas.PhaseTime // that it had, in their order
	Usage    jobwire.Usage       // what all its processes took; 0 where it is not known
	Commit   string              // that was built; empty if none was fetched
	Image    string              // the digest of the image; empty if it did not come so far
	Pushed   *schemas.Pushed     // nil if nothing was to be pushed
	// Results are what the job has yielded; nil if that is not known.
	Results *schemas.ResultsEvent

	reason, advice string // what the program in the container has said of a failure; see Reason
	lastLine       string // that the job has printed
}

// End returns how the job ended, in a word.
func (v Verdict) End() jobend.End {
	if v.Err == nil {
		return jobend.Exited
	}
	if f, ok := errors.AsType[*engine.Failure](v.Err); ok && f.End != "" {
		return f.End
	}
	return jobend.Failed
}

// Event returns what tells a client of events.
func (v Verdict) Event() schemas.VerdictEvent {
	e := schemas.VerdictEvent{
		End:        string(v.End()),
		Reason:     v.Reason(),
		Seconds:    seconds(v.Duration),
		PeakMemory: v.Usage.PeakMemory,
		CPUSeconds: v.Usage.CPUSeconds,
		Phases:     v.Phases,
		Commit:     v.Commit,
		Image:      v.Image,
		Pushed:     v.Pushed,
	}
	if v.Err == nil || v.ExitCode != 0 {
		e.ExitCode = &v.ExitCode
	}
	return e
}

// seconds returns a duration for a message, to the millisecond.
func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1e3 }

// log writes the verdict to the server's log.
func (v Verdict) log(log *slog.Logger) {
	args := []any{"result", v.End().Result(v.ExitCode), "end", v.End(), "exitCode", v.ExitCode, "seconds", seconds(v.Duration)}
	if reason := v.Reason(); reason != "" {
		args = append(args, "reason", reason)
	}
	if v.Err != nil {
		args = append(args, "err", v.Err)
	}
	if v.Commit != "" {
		args = append(args, "commit", v.Commit)
	}
	if v.Usage.PeakMemory > 0 {
		args = append(args, "peakMemory", v.Usage.PeakMemory, "cpuSeconds", v.Usage.CPUSeconds)
	}
	log.Info("job ended", args...)
}

// Response returns the message that tells a client.
func (v Verdict) Response() schemas.Response {
	if v.Err == nil {
		response := schemas.Exited(v.ExitCode)
		if v.ExitCode != 0 {
			response.Msg = v.explanation()
		}
		return response
	}
	f := v.failure()
	if v.ExitCode == 0 {
		return schemas.Unable(f.What, f.Advice)
	}
	response := schemas.Exited(v.ExitCode)
	response.Msg = v.explanation()
	return response
}

// cancelled returns the failure of a job that was ended before its time, from the cause
// with which its context ended.
func cancelled(cause error) *engine.Failure {
	if f, ok := errors.AsType[*engine.Failure](cause); ok {
		return f
	}
	f := &engine.Failure{What: wasCancelled, Cause: cause}
	f.End, _ = errors.AsType[jobend.End](cause)
	switch f.End {
	case jobend.Cancelled:
		f.Advice = "Its client closed the connection."
	case jobend.ClientGone:
		f.Advice = "Its client went away without a word."
	case jobend.Shutdown:
		f.Advice = "The builder is shutting down. Send the job again when it is back."
	default:
		f.Advice = "The builder's own log says why."
	}
	return f
}
