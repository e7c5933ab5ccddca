package web

import (
	"fmt"
	"net"
	"strings"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/jobend"
)

// A jobView is a job for people: its record, with words, marks and links.
type jobView struct{ history.Record }

// ends are a word and a tone for each end of a job.
var ends = map[jobend.End]struct{ word, tone string }{
	jobend.Exited:      {"failed", "bad"},
	jobend.Unpushed:    {"not pushed", "bad"},
	jobend.OutOfMemory: {"out of memory", "bad"},
	jobend.Killed:      {"killed", "bad"},
	jobend.TimedOut:    {"timed out", "bad"},
	jobend.Silent:      {"silent", "bad"},
	jobend.Cancelled:   {"cancelled", "odd"},
	jobend.ClientGone:  {"client gone", "odd"},
	jobend.Shutdown:    {"shut down", "odd"},
	jobend.NoImage:     {"no image", "bad"},
	jobend.EngineGone:  {"no engine", "bad"},
	jobend.Failed:      {"failed", "bad"},
	jobend.Interrupted: {"interrupted", "odd"},
}

// Word returns the state of the job in a word.
func (j jobView) Word() string {
	switch {
	case j.Waits():
		return "waiting"
	case j.Runs():
		return "running"
	case j.Succeeded():
		return "succeeded"
	}
	return ends[j.End].word
}

// Tone returns the CSS class for the colour of the word.
func (j jobView) Tone() string {
	switch {
	case j.Runs():
		return "running"
	case j.Succeeded():
		return "good"
	}
	return ends[j.End].tone
}

// Failed reports whether the job has ended and did not succeed.
func (j jobView) Failed() bool { return !j.Runs() && !j.Succeeded() }

// Mark returns a symbol for the job's state.
func (j jobView) Mark() string {
	switch {
	case j.Waits():
		return "○"
	case j.Runs():
		return "●"
	case j.Succeeded():
		return "✓"
	}
	return "✗"
}

// Icon returns the file name of the page's icon.
func (j jobView) Icon() string {
	if j.Job == "" {
		return "icon.svg"
	}
	if j.Waits() {
		return "icon-waiting.svg"
	}
	return "icon-" + j.Tone() + ".svg"
}

// maxTitle is how many characters of a command a title has. Browsers show fewer.
const maxTitle = 80

// Title returns the title of the job's page: state, repository and command.
func (j jobView) Title() string {
	command := []rune(j.Command)
	title := string(command[:min(maxTitle, len(command))])
	if name := j.Source(); name != "" {
		title = name[strings.LastIndexByte(name, '/')+1:] + ": " + title
	}
	return j.Mark() + " " + title
}

// Source returns a short form of the job's repository, or "".
func (j jobView) Source() string { return shortRepository(j.Repository) }

// Links returns the addresses of pages about the job's source.
func (j jobView) Links() links { return linksTo(j.Repository, j.Branch, j.Commit) }

// Headline returns a line about the job's state: if the job failed, the reason.
func (j jobView) Headline() string {
	switch {
	case j.Waits():
		return "The job waits for a free slot."
	case j.Runs():
		return "The job runs."
	case j.Succeeded():
		return "The job succeeded."
	case j.Reason != "":
		return j.Reason
	case j.End == jobend.Interrupted:
		return "The builder died while the job ran. The log ends there."
	case j.Error == "":
		return "The client has disconnected."
	}
	return j.Error // of an earlier version
}

// More returns the rest of the message that a failed job's client got: what to do. It is empty if Headline
// says everything.
func (j jobView) More() string {
	if !j.Failed() {
		return ""
	}
	more := j.Msg
	if len(more) >= len(j.Reason) && strings.EqualFold(more[:len(j.Reason)], j.Reason) {
		more = strings.TrimLeft(more[len(j.Reason):], ". ")
	}
	if strings.Contains(strings.ToLower(j.Reason), strings.ToLower(strings.TrimSuffix(more, "."))) {
		more = ""
	}
	if j.ExitCode != nil {
		more = fmt.Sprintf("%s Exit code %d.", more, *j.ExitCode)
	}
	return strings.TrimSpace(more)
}

// Took returns how long the job ran, or has been running; empty if that is not known.
func (j jobView) Took() string {
	switch {
	case j.Runs():
		return duration(time.Since(j.Begun).Truncate(time.Second))
	case j.Ended.IsZero():
		return ""
	}
	return duration(j.Ended.Sub(j.Begun))
}

// duration returns a time in the format of the page, the same as in assets/words.js. If the clock was set back, it
// is 0.
func duration(d time.Duration) string {
	d = max(0, d)
	switch s := int(d.Seconds()); {
	case s < 10 && d%time.Second != 0:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %d s", s/60, s%60)
	default:
		return fmt.Sprintf("%d h %d min", s/3600, s/60%60)
	}
}

// Elapsed returns how many seconds the job has been running.
func (j jobView) Elapsed() int { return int(time.Since(j.Begun).Seconds()) }

// ShortCommit returns the first characters of the commit.
func (j jobView) ShortCommit() string { return j.Commit[:min(7, len(j.Commit))] }

// ShortID returns the first characters of the job's id.
func (j jobView) ShortID() string { return j.Job[:min(8, len(j.Job))] }

// From returns the host that sent the job, or "".
func (j jobView) From() string {
	host, _, err := net.SplitHostPort(j.Client)
	if err != nil {
		return j.Client
	}
	return host
}
