package jobrun

import (
	"bytes"
	"io"
	"os"
	"strings"
)

// maxGitLine is how many bytes are kept of a line that git prints.
const maxGitLine = 1 << 10

// A gitOutput writes both outputs of git to the output that has this program's own lines. Otherwise the
// log could have them in another order, because the engine reads two outputs independently. It keeps
// git's error message.
type gitOutput struct {
	to      io.Writer
	line    []byte // the beginning of a line without its end
	partial bool   // the last line has no end yet
	last    string // why git failed, as git or its fetchWatch said; empty: not known
	fatal   bool   // git has printed a fatal error; what follows is advice
}

// of calls run with a file that run may print to, and returns the exit code that run returns.
func (o *gitOutput) of(run func(to *os.File) int) int {
	o.last, o.fatal = "", false
	pipe, err := newTee(o)
	if err != nil {
		sayWhy("", "cannot read what git prints: %v", err)
		return exitInternal
	}
	code := run(pipe.in)
	pipe.close()
	if o.partial {
		o.Write(newline) // the next line is not from git
	}
	return code
}

// Write processes what git prints.
func (o *gitOutput) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		part, after, ended := bytes.Cut(rest, newline)
		o.line = append(o.line, part[:min(len(part), maxGitLine-len(o.line))]...)
		o.partial = !ended
		if ended {
			o.note(string(o.line))
			o.line = o.line[:0]
		}
		rest = after
	}
	return o.to.Write(b)
}

// note keeps the line that says why git fails: the first fatal error, or the line before it if the fatal
// error is vague.
func (o *gitOutput) note(line string) {
	line = strings.TrimSpace(line)
	text, isFatal := strings.CutPrefix(line, "fatal: ")
	if line == "" || o.fatal {
		return
	}
	if o.fatal = isFatal; !isFatal || o.last == "" || !isVague(text) {
		o.last = text
	}
}

// isVague reports whether a fatal error says only that a connection or a program has ended. The line
// before it then has the reason.
func isVague(fatal string) bool {
	return strings.HasPrefix(fatal, "Could not read from remote repository") || strings.HasPrefix(fatal, "the remote end hung up")
}

// why returns the reason of the latest failure, or "".
func (o *gitOutput) why() string { return o.last }
