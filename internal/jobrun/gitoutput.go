package jobrun

import (
	"bytes"
	"io"
	"os"
	"strings"
)

// maxGitLine is how many bytes are kept of a line of git's.
const maxGitLine = 1 << 10

// A gitOutput is all that git prints, which goes to one writer, that of the job's own lines: so the log
// has them in one order, whatever the engine makes of two outputs. It knows git's last word.
type gitOutput struct {
	to      io.Writer
	line    []byte // the beginning of the line that is not ended
	partial bool   // there is one
	last    string // what git, or who has ended it, has said of its failure; empty: nothing
	fatal   bool   // it has said a fatal error, and what follows is advice
}

// of runs something that prints to a file, and returns its exit code.
func (o *gitOutput) of(run func(to *os.File) int) int {
	o.last, o.fatal = "", false
	tap, err := newTee(o)
	if err != nil {
		sayWhy("", "cannot read what git prints: %v", err)
		return exitInternal
	}
	code := run(tap.in)
	tap.close()
	if o.partial {
		o.Write(newline) // the next line is not git's
	}
	return code
}

// Write takes what git prints.
func (o *gitOutput) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		part, after, ended := bytes.Cut(rest, newline)
		o.line = append(o.line, part[:min(len(part), maxGitLine-len(o.line))]...)
		o.partial = !ended
		if ended {
			o.take(string(o.line))
			o.line = o.line[:0]
		}
		rest = after
	}
	return o.to.Write(b)
}

// take notes a line that says why git fails: its first fatal one, or what comes before that if that says
// more.
func (o *gitOutput) take(line string) {
	line = strings.TrimSpace(line)
	text, isFatal := strings.CutPrefix(line, "fatal: ")
	if line == "" || o.fatal {
		return
	}
	if o.fatal = isFatal; !isFatal || o.last == "" || !isVague(text) {
		o.last = text
	}
}

// isVague reports whether git says no more than that something has ended that has said why.
func isVague(fatal string) bool {
	return strings.HasPrefix(fatal, "Could not read from remote repository") || strings.HasPrefix(fatal, "the remote end hung up")
}

// why returns what was said of the latest failure, or "".
func (o *gitOutput) why() string { return o.last }
