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

// A Verdict says how a job ended, with all that is known about it. The last message, the server's log and the metrics
// are made from it.
type Verdict struct {
	ExitCode int   // of the container; 0 if it has none and Err is set
	Err      error // why the job did not end by itself; nil if it did

	Duration time.Duration
	Phases   []schemas.PhaseTime // the job's phases, in their order
	Usage    jobwire.Usage       // of all its processes together; 0 where it is not known
	Commit   string              // the commit that was built; empty if none was fetched
	Image    string              // the digest of the image; empty if no container was created
	Pushed   *schemas.Pushed     // nil if the job does not push
	// Results are the results of the job; nil if they are not known.
	Results *schemas.ResultsEvent

	reason, advice string // why the job failed, from the program in the container; see Reason
	lastLine       string // the last line that the job has printed
}

// End returns how the job ended, in one word.
func (v Verdict) End() jobend.End {
	if v.Err == nil {
		return jobend.Exited
	}
	if f, ok := errors.AsType[*engine.Failure](v.Err); ok && f.End != "" {
		return f.End
	}
	return jobend.Failed
}

// Event returns the verdict as an event.
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

// seconds returns a duration in seconds, rounded down to milliseconds.
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

// Response returns the verdict as the last message for the client.
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

// cancelled returns the failure of a job whose context was cancelled with a cause.
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
		f.Advice = "The connection to its client was lost."
	case jobend.Shutdown:
		f.Advice = "The builder is shutting down. Send the job again when it is back."
	default:
		f.Advice = "The builder's log says why."
	}
	return f
}
