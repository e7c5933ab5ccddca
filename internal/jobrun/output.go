package jobrun

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"iglu.sh/builder/internal/nixstore"
)

// An output is a job's standard output, to which both the build and the push write. A message of the push
// waits for the end of a line that the build has begun. An output also collects the store paths that the
// build prints, each on a line of its own.
type output struct {
	w io.Writer

	mu      sync.Mutex
	line    []byte // the beginning of a line without its end
	pending []byte // lines that wait for that end
	paths   []string
	known   map[string]bool // of paths
}

// Write writes what the build prints.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.w.Write(b)
	for rest := b; len(rest) > 0; {
		part, after, ended := bytes.Cut(rest, newline)
		if len(o.line) <= nixstore.MaxPath { // a longer line is no path
			o.line = append(o.line, part[:min(len(part), nixstore.MaxPath+1)]...)
		}
		if ended {
			o.endLine()
		}
		rest = after
	}
	if len(o.line) == 0 && len(o.pending) > 0 {
		o.w.Write(o.pending)
		o.pending = nil
	}
	return n, err
}

var (
	newline     = []byte{'\n'}
	storePrefix = []byte("/nix/store/")
)

func (o *output) endLine() {
	if bytes.HasPrefix(o.line, storePrefix) { // avoids allocations for most lines
		if path := string(bytes.TrimSuffix(o.line, []byte{'\r'})); nixstore.IsPath(path) {
			o.note(path)
		}
	}
	o.line = o.line[:0]
}

// note keeps a path that the build has printed. It keeps a repeated one only while it can be one of the results.
func (o *output) note(path string) {
	if o.known == nil {
		o.known = make(map[string]bool)
	}
	if !o.known[path] || len(o.paths) < maxResults {
		o.paths = append(o.paths, path)
	}
	o.known[path] = true
}

// say writes a message of this program.
func (o *output) say(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	line := fmt.Appendf(nil, sayFormat(format), args...)
	if len(o.line) > 0 {
		o.pending = append(o.pending, line...)
		return
	}
	o.w.Write(line)
}

// printed returns the paths that the build has printed. The build has ended.
func (o *output) printed() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.line) > 0 {
		o.endLine()
	}
	return o.paths
}

// end writes the end of the build's last line, if it has none, and returns the paths that the build printed.
func (o *output) end() []string {
	if len(o.line) > 0 {
		o.Write(newline)
	}
	return o.paths
}
