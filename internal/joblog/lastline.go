package joblog

import (
	"bytes"
	"regexp"
	"strings"
)

const (
	// lastLineWithin is how far from the end of a log its last line is looked for, in bytes.
	lastLineWithin = 16 << 10
	// maxLastLine is how many bytes of it are of interest.
	maxLastLine = 400
)

// ownLine is what lines of the builder's own begin with.
var ownLine = []byte("iglu: ")

// hint is what Nix prints after an error in its arguments.
var hint = regexp.MustCompile(`^Try '.* --help' for more information\.$`)

// LastLine returns the last line that holds something and that the job has printed, not the builder, and
// that is no hint of Nix's; its beginning, if it is long. It is empty if there is none near the end of the log, or none can be
// read.
func (l *Log) LastLine() string {
	text, whole := l.end()
	for len(text) > 0 {
		begin := bytes.LastIndexByte(bytes.TrimSuffix(text, newline), '\n') + 1
		line := bytes.TrimSpace(text[begin:])
		if begin == 0 && !whole {
			return "" // it may begin before
		}
		if len(line) > 0 && !bytes.HasPrefix(line, ownLine) && !hint.Match(line) {
			return strings.ToValidUTF8(string(line[:min(len(line), maxLastLine)]), "")
		}
		text = text[:begin]
	}
	return ""
}

// end returns the end of the log so far, and whether it begins where a line does.
func (l *Log) end() (text []byte, whole bool) {
	x := l.index
	x.mu.Lock()
	defer x.mu.Unlock()
	if l.cut != nil && len(l.cut.tail) > 0 {
		tail := l.cut.tail
		from := max(0, len(tail)-lastLineWithin)
		return bytes.Clone(tail[from:]), false
	}
	text = make([]byte, min(x.size, lastLineWithin))
	if _, err := l.file.ReadAt(text, x.size-int64(len(text))); err != nil {
		return nil, false
	}
	return text, x.size <= lastLineWithin
}
