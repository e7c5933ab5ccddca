package orchestrator

import (
	"errors"
	"fmt"
	"strings"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/termtext"
	"iglu.sh/builder/orchestrator/engine"
)

// failure returns why the job did not end by itself, in sentences for its client.
func (v Verdict) failure() *engine.Failure {
	if f, ok := errors.AsType[*engine.Failure](v.Err); ok {
		return f
	}
	return &engine.Failure{What: "The builder could not run the job to its end.", Advice: "Its own log says why."}
}

// Reason says in a line, without a period, why the job failed; nothing if it did not. It is a headline:
// what matters comes first.
func (v Verdict) Reason() string {
	switch {
	case v.Err != nil:
		return v.reasonOfFailure()
	case v.ExitCode == 0:
		return ""
	case v.reason != "":
		return v.reason
	}
	ended := fmt.Sprintf("the command ended with exit code %d", v.ExitCode)
	last := termtext.Visible(v.lastLine)
	if text, ok := strings.CutPrefix(last, "error: "); ok { // as Nix says what is wrong with its arguments
		return text
	}
	if last != "" {
		return ended + ": " + last
	}
	return ended
}

func (v Verdict) reasonOfFailure() string {
	f := v.failure()
	switch {
	case v.End() == jobend.OutOfMemory && v.reason != "":
		return "out of memory: " + v.reason
	case v.End() == jobend.OutOfMemory:
		return "out of memory"
	case f.What == wasCancelled:
		return "cancelled: " + lowerFirst(strings.TrimSuffix(f.Advice, "."))
	}
	return lowerFirst(strings.TrimSuffix(f.What, "."))
}

// wasCancelled is what a client is told of a job that was ended before its time; the advice says why.
const wasCancelled = "The job was cancelled."

// explanation says why the job failed, and what to do, in sentences.
func (v Verdict) explanation() string {
	if v.Err != nil {
		f := v.failure()
		return f.What + " " + f.Advice
	}
	advice := v.advice
	if v.reason == "" {
		advice = "The end of its log may say more."
	}
	return strings.TrimSpace(strings.TrimSuffix(v.Reason(), ".") + ". " + advice)
}

// lowerFirst returns a sentence as it goes on within another.
func lowerFirst(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToLower(text[:1]) + text[1:]
}
