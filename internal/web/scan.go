package web

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"iglu.sh/builder/internal/lazyregexp"
	"iglu.sh/builder/internal/textcut"
)

const (
	// maxShown is the length in bytes at which a line is cut for the page. Nobody reads more of it, and the
	// layout of a line of a mebibyte blocks a browser.
	maxShown = 8 << 10
	// maxAnswer is after how many bytes of lines an answer ends. JSON may need six bytes for each. The page
	// requests the other lines again.
	maxAnswer = 512 << 10
	// maxRead is how many bytes are read for one answer. The page requests the other lines again.
	maxRead = 16 << 20
	// scanBuffer is how many bytes of a log are read at once for a search, and linesBuffer for lines. The 500 lines that
	// the page requests mostly take less.
	scanBuffer  = 1 << 20
	linesBuffer = 64 << 10
)

// A text is the current content of a job's log: whole lines, each with a line feed.
type text interface {
	io.ReaderAt
	// Offset returns the offset of a line in bytes. Lines are numbered from 0.
	Offset(line int64) (int64, error)
}

// linesFrom returns up to count lines of the first size bytes of a log, from a line on: fewer if they are long. Lines
// that are too long are cut; isCut has their indexes in lines.
func linesFrom(log text, size, from, count int64) (lines []string, isCut []int, err error) {
	offset, err := log.Offset(from)
	if err != nil {
		return nil, nil, err
	}
	lines = []string{}
	var line []byte // the part that is shown
	chunks := chunksOf(log, offset, size, linesBuffer)
	shown := 0 // bytes
	isFull := func() bool { return int64(len(lines)) >= count || shown >= maxAnswer }
	for read := 0; !isFull() && (read < maxRead || len(lines) == 0); {
		chunk, err := chunks()
		if err != nil || len(chunk) == 0 {
			return lines, isCut, err
		}
		read += len(chunk)
		for !isFull() {
			part, rest, ends := bytes.Cut(chunk, newline)
			line = append(line, part[:min(len(part), maxShown+1-len(line))]...)
			if !ends {
				break
			}
			if len(line) > maxShown {
				line, isCut = line[:textcut.At(line, maxShown)], append(isCut, len(lines))
			}
			lines, shown = append(lines, string(line)), shown+len(line)
			line, chunk = line[:0], rest
		}
	}
	return lines, isCut, nil
}

// chunksOf returns a function that returns the next chunk of a log, of at most buffer bytes, and an empty one at size. A
// chunk is valid until the next call.
func chunksOf(log text, offset, size, buffer int64) func() ([]byte, error) {
	buf := make([]byte, min(buffer, max(0, size-offset)))
	return func() ([]byte, error) {
		if offset >= size {
			return nil, nil
		}
		n, err := log.ReadAt(buf[:min(int64(len(buf)), size-offset)], offset)
		offset += int64(n)
		if n == 0 {
			return nil, fmt.Errorf("read a job's log: %w", err)
		}
		return buf[:n], nil
	}
}

var newline = []byte{'\n'}

// A search is the state and the result of a search in a log.
type search struct {
	wanted []byte // in small letters
	limit  int
	line   int64 // the next one to search
	found  []int64
	count  int64
}

// find searches the lines of a log for a text, from a line on. It ignores case, control sequences and control
// characters, as the page does not show them. It returns up to limit lines that contain the text, and how many there
// are in all. When ctx ends, it returns what it has found so far.
func find(ctx context.Context, log text, size int64, query string, from int64, limit int) (*search, error) {
	offset, err := log.Offset(from)
	if err != nil {
		return nil, err
	}
	s := &search{wanted: bytes.ToLower([]byte(query)), limit: limit, line: from, found: []int64{}}
	chunks := chunksOf(log, offset, size, scanBuffer)
	for partial := []byte(nil); ; {
		chunk, err := chunks()
		if err != nil || len(chunk) == 0 || ctx.Err() != nil {
			return s, err
		}
		whole := bytes.LastIndexByte(chunk, '\n') + 1
		if whole > 0 {
			s.add(append(partial, chunk[:whole]...))
			partial = partial[:0]
		}
		partial = append(partial, chunk[whole:]...)
	}
}

// add searches whole lines.
func (s *search) add(lines []byte) {
	for rest := bytes.ToLower(withoutControls(withoutSequences(lines))); len(rest) > 0; {
		at := bytes.Index(rest, s.wanted)
		if at < 0 {
			s.line += int64(bytes.Count(rest, newline))
			return
		}
		s.line += int64(bytes.Count(rest[:at], newline))
		s.count++
		if len(s.found) < s.limit {
			s.found = append(s.found, s.line)
		}
		s.line++
		rest = rest[at+bytes.IndexByte(rest[at:], '\n')+1:]
	}
}

const escape = 0x1b

// sequence is a control sequence of a terminal (ECMA-48): the same as in assets/ansi.js.
var sequence = lazyregexp.New(`^\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)|[PX^_][^\x1b\n]*\x1b\\|[ -/]*[0-~])`)

// withoutSequences returns lines without control sequences of terminals, in place.
func withoutSequences(lines []byte) []byte {
	at := bytes.IndexByte(lines, escape)
	if at < 0 {
		return lines
	}
	out := lines[:at]
	for rest := lines[at:]; ; {
		rest = rest[max(1, len(sequence().Find(rest))):]
		next := bytes.IndexByte(rest, escape)
		if next < 0 {
			return append(out, rest...)
		}
		out = append(out, rest[:next]...)
		rest = rest[next:]
	}
}

// withoutControls returns lines without the control characters that the page does not show, in place: all but tabs
// and line feeds.
func withoutControls(lines []byte) []byte {
	at := nextControl(lines)
	if at == len(lines) {
		return lines
	}
	out := lines[:at]
	for rest := lines[at:]; len(rest) > 0; {
		if rest[0] == c1Lead {
			rest = rest[1:]
		}
		rest = rest[1:]
		next := nextControl(rest)
		out, rest = append(out, rest[:next]...), rest[next:]
	}
	return out
}

// c1Lead is the first byte of the control characters U+0080 to U+009F in UTF-8. The second is their number.
const c1Lead = 0xc2

// nextControl returns the index of the first control character, or the length of text if there is none.
func nextControl(text []byte) int {
	for i, b := range text {
		switch {
		case b >= ' ' && b < 0x7f || b == '\t' || b == '\n':
		case b < ' ' || b == 0x7f, b == c1Lead && i+1 < len(text) && text[i+1] < 0xa0:
			return i
		}
	}
	return len(text)
}
