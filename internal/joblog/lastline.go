package joblog

import (
	"bytes"
	"strings"

	"iglu.sh/builder/internal/lazyregexp"
)

const (
	// lastLineWithin is how many bytes at the end of a log are searched for its last line.
	lastLineWithin = 16 << 10
	// maxLastLine is the largest length of the last line in bytes. A longer line is shortened.
	maxLastLine = 400
)

// ownLine is the prefix of the builder's own lines.
var ownLine = []byte("iglu: ")

// hint is what Nix prints after an error in its arguments.
var hint = lazyregexp.New(`^Try '.* --help' for more information\.$`)

// LastLine returns the last line that the job has printed, without empty lines, lines of the builder and
// Nix's hint about --help. A long line is shortened. LastLine returns "" if there is no such line near the end
// of the log, or the log cannot be read.
func (l *Log) LastLine() string {
	text, whole := l.end()
	for len(text) > 0 {
		begin := bytes.LastIndexByte(bytes.TrimSuffix(text, newline), '\n') + 1
		line := bytes.TrimSpace(text[begin:])
		if begin == 0 && !whole {
			return "" // the line may begin before text
		}
		if len(line) > 0 && !bytes.HasPrefix(line, ownLine) && !hint().Match(line) {
			return strings.ToValidUTF8(string(line[:min(len(line), maxLastLine)]), "")
		}
		text = text[:begin]
	}
	return ""
}

// end returns the end of the log so far, and whether it begins with a whole line.
func (l *Log) end() (text []byte, whole bool) {
	x := l.index
	x.mu.Lock()
	defer x.mu.Unlock()
	if l.cut != nil {
		tail := l.cut.tail
		from := max(0, len(tail)-lastLineWithin)
		return bytes.Clone(tail[from:]), from == 0 // a tail that begins within a line is longer
	}
	text = make([]byte, min(x.size, lastLineWithin))
	if _, err := l.file.ReadAt(text, x.size-int64(len(text))); err != nil {
		return nil, false
	}
	return text, x.size <= lastLineWithin
}
