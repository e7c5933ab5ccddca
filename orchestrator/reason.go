package orchestrator

import (
	"errors"
	"fmt"
	"strings"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/termtext"
	"iglu.sh/builder/orchestrator/engine"
)

// failure returns the reason why the job did not end by itself, in sentences for its client.
func (v Verdict) failure() *engine.Failure {
	if f, ok := errors.AsType[*engine.Failure](v.Err); ok {
		return f
	}
	return &engine.Failure{What: "The builder could not run the job to its end.", Advice: "The builder's log says why."}
}

// Reason says in one line, without a period at its end, why the job failed. It is a headline: the most important words
// are at its beginning. Reason returns "" if the job did not fail.
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

// wasCancelled is the failure of a job that was cancelled. The advice next to it says why.
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

// lowerFirst returns a text with its first letter in lower case, for use within a sentence.
func lowerFirst(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToLower(text[:1]) + text[1:]
}
