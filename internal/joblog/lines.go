package joblog

import (
	"bytes"
	"unicode/utf8"
)

// maxLine is the length in bytes at which a line is split, at a rune's border. It
// bounds what a stream and a reader hold in memory.
const maxLine = 1 << 20

// A Stream turns chunks of one of a job's outputs into lines of its log. It is an
// io.WriteCloser for one goroutine; each output has a Stream of its own, so that
// their lines never mix.
type Stream struct {
	log     *Log
	partial []byte // the line that has not ended yet, at most maxLine bytes
	afterCR bool   // the last line ended in CR: an LF right after it is part of that
	out     []byte // lines of the present chunk
}

// Stream returns a new stream whose lines go to l.
func (l *Log) Stream() *Stream { return &Stream{log: l} }

// Write takes the next chunk. Lines end in LF, CRLF or a lone CR; how the bytes are
// cut into chunks makes no difference to them. Its error is that of the log's file.
func (s *Stream) Write(chunk []byte) (int, error) {
	for rest := chunk; len(rest) > 0; {
		if s.afterCR {
			s.afterCR = false
			if rest[0] == '\n' {
				rest = rest[1:]
				continue
			}
		}
		end := bytes.IndexAny(rest, "\r\n")
		if end < 0 {
			s.extend(rest)
			break
		}
		s.extend(rest[:end])
		s.endLine()
		s.afterCR = rest[end] == '\r'
		rest = rest[end+1:]
	}
	return len(chunk), s.flush()
}

// Close appends a last line that nothing has ended.
func (s *Stream) Close() error {
	if len(s.partial) > 0 {
		s.endLine()
	}
	return s.flush()
}

// extend adds bytes to the present line, and ends it wherever it grows too long.
func (s *Stream) extend(part []byte) {
	for len(s.partial)+len(part) > maxLine {
		room := maxLine - len(s.partial)
		s.partial = append(s.partial, part[:room]...)
		part = part[room:]
		cut := runeBorder(s.partial)
		begun := bytes.Clone(s.partial[cut:])
		s.partial = s.partial[:cut]
		s.endLine()
		s.partial = append(s.partial, begun...)
	}
	s.partial = append(s.partial, part...)
}

// runeBorder returns the length of line without a rune at its end that has begun
// but may not be complete.
func runeBorder(line []byte) int {
	for back := 1; back < utf8.UTFMax && back <= len(line); back++ {
		if i := len(line) - back; utf8.RuneStart(line[i]) {
			if utf8.FullRune(line[i:]) {
				break
			}
			return i
		}
	}
	return len(line)
}

func (s *Stream) endLine() {
	if utf8.Valid(s.partial) {
		s.out = append(s.out, s.partial...)
	} else {
		s.out = appendValid(s.out, s.partial)
	}
	s.out = append(s.out, '\n')
	s.partial = s.partial[:0]
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
	return s.log.append(lines)
}
