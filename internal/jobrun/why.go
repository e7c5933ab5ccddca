package jobrun

import (
	"fmt"
	"strings"
	"sync"

	"iglu.sh/builder/internal/jobwire"
	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/internal/termtext"
	"iglu.sh/builder/internal/textcut"
)

const (
	// maxReason is the length in bytes at which the reason of a failure is cut: it is shown as a headline.
	maxReason = 500
	// maxAdvice is the same for the advice.
	maxAdvice = 1 << 10
	// maxUnpushed is the same for the report of what could not be pushed.
	maxUnpushed = 16 << 10
)

// A failure says why the job fails, in a line without a period at its end, and what to do about it, in a
// sentence, which may be empty.
type failure struct {
	mu             sync.Mutex
	reason, advice string
}

// why is the failure of the job. The job ends at its first step that fails, so the latest one is used.
var why failure

// sayWhy writes a line of this program to the job's log, and makes it the reason why the job fails.
func sayWhy(advice, format string, args ...any) {
	say(format, args...)
	why.set(advice, fmt.Sprintf(format, args...))
}

func (f *failure) set(advice, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reason, f.advice = reason, advice
}

// complete adds the failure to the end of a job that failed, unless only the push failed. It masks secrets before
// it cuts a text, because the rest of a secret that is cut could not be recognized later.
func (f *failure) complete(end *jobwire.End, secrets *redact.Redactor) {
	f.mu.Lock()
	defer f.mu.Unlock()
	shown := func(text string, most int) string { return textcut.Short(oneLine(secrets.String(text)), most) }
	switch {
	case end.ExitCode == 0:
	case end.Unpushed != "":
		end.Unpushed = shown(end.Unpushed, maxUnpushed)
	default:
		end.Reason, end.Advice = shown(f.reason, maxReason), shown(f.advice, maxAdvice)
	}
}

// oneLine returns a text as one line of valid UTF-8, without control characters.
func oneLine(text string) string {
	return termtext.Visible(strings.Join(strings.Fields(strings.ToValidUTF8(text, "\ufffd")), " "))
}

// upperFirst returns a text with a capital first letter.
func upperFirst(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:]
}
