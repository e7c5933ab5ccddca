package joblog

import (
	"bytes"
	"unicode/utf8"

	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/internal/textcut"
	"iglu.sh/builder/schemas"
)

// maxLine is the length in bytes at which a line is split, between two runes. It limits the memory of a
// stream and of a reader.
const maxLine = 1 << 20

// A Stream turns the chunks of one of a job's outputs into lines of its log. It is an io.WriteCloser for one
// goroutine. Each output has its own Stream, so that lines never mix.
type Stream struct {
	log     *Log
	name    schemas.Stream
	redact  *redact.Lines
	partial []byte // the line that has not ended yet, at most longest bytes
	afterCR bool   // the last line ended in CR: an LF right after it belongs to that line end
	longest int    // maxLine, except in tests
	valid   []byte // scratch: a line made valid UTF-8
	out     []byte // lines of the current chunk
}

// Stream returns a new stream that appends its lines to l. name says which output the lines are from.
func (l *Log) Stream(name schemas.Stream) *Stream {
	return &Stream{log: l, name: name, redact: l.redactor.Lines(), longest: maxLine}
}

// Write appends the lines of the next chunk. Lines end in LF, CRLF or a single CR. They do not depend on how
// the bytes are divided into chunks. Write returns the first error of the log's files.
func (s *Stream) Write(chunk []byte) (int, error) {
	rest := chunk
	if s.afterCR && len(rest) > 0 {
		s.afterCR = false
		rest = bytes.TrimPrefix(rest, newline)
	}
	if len(s.partial) > 0 && len(rest) > 0 {
		rest = s.takeLine(rest)
	}
	if lines := s.wholeLines(rest); len(lines) > 0 {
		s.out = s.redact.AppendLines(s.out, lines)
		rest = rest[len(lines):]
	}
	for len(rest) > 0 {
		rest = s.takeLine(rest)
	}
	return len(chunk), s.flush()
}

// takeLine adds the first line of text, or all of text if no line ends in it, and returns the rest.
func (s *Stream) takeLine(text []byte) (rest []byte) {
	line, ending := text, 0
	if end := bytes.IndexAny(text, "\r\n"); end >= 0 {
		line, ending = text[:end], 1
		if rest := text[end+1:]; text[end] == '\r' {
			// An LF right after CR is part of the same line end.
			ending += len(rest) - len(bytes.TrimPrefix(rest, newline))
			s.afterCR = len(rest) == 0
		}
	}
	s.add(line, ending > 0)
	return text[len(line)+ending:]
}

// wholeLines returns the whole lines of text, if they need no change: they are valid UTF-8, not too long, and
// end in LF. It returns nil otherwise. Most output needs no change.
func (s *Stream) wholeLines(text []byte) []byte {
	lines := text[:bytes.LastIndexByte(text, '\n')+1]
	if len(lines) > s.longest || bytes.IndexByte(lines, '\r') >= 0 || !utf8.Valid(lines) {
		return nil
	}
	return lines
}

// Close appends a last line without a line end.
func (s *Stream) Close() error {
	if len(s.partial) > 0 {
		s.add(nil, true)
	}
	return s.flush()
}

// add adds the next part of the current line. If it is the last part, add ends the line. It splits a line
// that becomes too long.
func (s *Stream) add(part []byte, last bool) {
	if last && len(s.partial) == 0 && len(part) <= s.longest {
		s.endLine(part, false) // a whole line, as most are
		return
	}
	for len(s.partial)+len(part) > s.longest {
		room := s.longest - len(s.partial)
		line := append(s.partial, part[:room]...)
		part = part[room:]
		cut := textcut.Whole(line)
		s.endLine(line[:cut], true)
		s.partial = append(line[:0], line[cut:]...)
	}
	s.partial = append(s.partial, part...)
	if last {
		s.endLine(s.partial, false)
		s.partial = s.partial[:0]
	}
}

// runeStart returns the index of the first byte of text that begins a rune.
func runeStart(text []byte) int {
	for i, b := range text {
		if utf8.RuneStart(b) {
			return i
		}
	}
	return len(text)
}

// endLine adds a line to out. split is true if the next line is the rest of the same line.
func (s *Stream) endLine(line []byte, split bool) {
	if !utf8.Valid(line) {
		s.valid = appendValid(s.valid[:0], line)
		line = s.valid
	}
	s.out = append(s.redact.Append(s.out, line, split), '\n')
}

// appendValid appends line with U+FFFD in place of each byte that is not UTF-8.
func appendValid(out, line []byte) []byte {
	for len(line) > 0 {
		r, size := utf8.DecodeRune(line)
		out = utf8.AppendRune(out, r)
		line = line[size:]
	}
	return out
}

func (s *Stream) flush() error {
	lines := s.out
	s.out = s.out[:0]
	return s.log.append(lines, s.name)
}
