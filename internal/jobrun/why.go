package jobrun

import (
	"fmt"
	"strings"
	"sync"

	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/internal/termtext"
)

const (
	// maxReason bounds in bytes the line that says why a job failed: it is a headline.
	maxReason = 500
	// maxAdvice likewise bounds what there is to do about it.
	maxAdvice = 1 << 10
)

// A failure is why the job fails: a line, without a period at its end, and a sentence on what to do,
// which may be empty.
type failure struct {
	mu             sync.Mutex
	reason, advice string
}

// why is the job's. The job ends with the first of its steps that fails, so the latest counts.
var why failure

// sayWhy says a line of the job's own, which is why the job fails.
func sayWhy(advice, format string, args ...any) {
	say(format, args...)
	why.set(advice, fmt.Sprintf(format, args...))
}

func (f *failure) set(advice, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reason, f.advice = reason, advice
}

// complete adds the failure to the end of a job that failed, without secrets: what is cut off could
// not be recognized as one later.
func (f *failure) complete(end *jobwire.End, secrets *redact.Redactor) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if end.ExitCode == 0 || end.Unpushed != "" {
		return
	}
	end.Reason = cut(oneLine(secrets.String(f.reason)), maxReason)
	end.Advice = cut(oneLine(secrets.String(f.advice)), maxAdvice)
}

// oneLine returns a text as one line of valid UTF-8, with nothing in it that does more than show.
func oneLine(text string) string {
	return termtext.Visible(strings.Join(strings.Fields(strings.ToValidUTF8(text, "\ufffd")), " "))
}

// cut returns at most so many bytes of a text, and says if that is not all.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// upperFirst returns a text as a sentence begins.
func upperFirst(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:]
}
