package jobrun

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"iglu.sh/builder/internal/nixstore"
)

// An output is a job's standard output while its build and its push both write there. What
// the push has to say waits for the end of a line that the build has begun. It collects
// the store paths that the build prints, each alone in a line.
type output struct {
	w io.Writer

	mu    sync.Mutex
	line  []byte // the beginning of the line that is not ended
	waits []byte // lines that wait for its end
	paths []string
}

// Write takes what the build prints.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.w.Write(b)
	for rest := b; len(rest) > 0; {
		part, after, ended := bytes.Cut(rest, newline)
		if len(o.line) <= nixstore.MaxPath { // or it is none of a path
			o.line = append(o.line, part[:min(len(part), nixstore.MaxPath+1)]...)
		}
		if ended {
			o.endLine()
		}
		rest = after
	}
	if len(o.line) == 0 && len(o.waits) > 0 {
		o.w.Write(o.waits)
		o.waits = nil
	}
	return n, err
}

var newline = []byte{'\n'}

func (o *output) endLine() {
	if path := string(bytes.TrimSuffix(o.line, []byte{'\r'})); nixstore.IsPath(path) {
		o.paths = append(o.paths, path)
	}
	o.line = o.line[:0]
}

// say writes a line of the job's own.
func (o *output) say(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	line := fmt.Appendf(nil, sayFormat(format), args...)
	if len(o.line) > 0 {
		o.waits = append(o.waits, line...)
		return
	}
	o.w.Write(line)
}

// printed returns the paths that the build has printed, when it has ended.
func (o *output) printed() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.line) > 0 {
		o.endLine()
	}
	return o.paths
}

// end ends the last line, if the build has not, and returns the paths that it printed.
func (o *output) end() []string {
	if len(o.line) > 0 {
		o.Write(newline)
	}
	return o.paths
}
