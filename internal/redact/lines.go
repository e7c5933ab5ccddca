package redact

import "bytes"

// wrapColumn is the lowest column at which programs wrap base64: OpenSSL does so at 64, base64(1) and MIME at 76. Only
// a line that ends with at least so many characters of base64 can continue on the next line.
const wrapColumn = 64

// maxPrefix is the length of the longest prefix of a build's log lines that is kept, in bytes. The name of a
// store path has at most 211.
const maxPrefix = 256

// maxScratch is the size of the largest buffers that are kept from one line to the next, in items. Longer lines
// are rare, and a job has hundreds of streams, one for each derivation's log.
const maxScratch = 1 << 10

// Lines is the state of a stream of lines. It has the part of a secret with which the last line ended, and
// buffers of limited size. It is not safe for concurrent use.
type Lines struct {
	redactor *Redactor

	visible view // without escape sequences
	raw     view // with them, for secrets inside an escape sequence

	cut     bool        // the line of the last call continues in the next
	mixed   bool        // the present line has an escape sequence
	inside  escapeState // at the end of the present line
	run     int         // base64 characters at the end of a line that was cut, up to wrapColumn
	prefix  []byte      // of the line before, if that may continue
	scratch scratch
}

// scratch has the buffers for the processing of one line.
type scratch struct {
	text        []byte
	escapes     []escape
	whole, both []span
	all         []span
}

// An ending says whether, and where, a text continues.
type ending int

const (
	lineEnd ending = iota // it does not continue
	wrapped               // perhaps on the next line, if it is encoded
	cut                   // in the next call
)

// Append appends line to dst with its secrets masked, and returns the extended buffer. The line has no line end
// and is UTF-8. split must be true if the next call continues the same line: a secret may be in both parts.
//
// If a secret continues in the next call, up to 5 of its bytes at the end of line may not be masked, because so
// few bytes could be the start of anything.
func (l *Lines) Append(dst, line []byte, split bool) []byte {
	if l.mixed || bytes.IndexByte(line, esc) >= 0 {
		dst = l.appendMixed(dst, line, split)
	} else {
		dst = appendMasked(dst, line, l.findVisible(line, split), nil)
		l.raw.place = l.visible.place
	}
	if !split {
		l.mixed, l.inside = false, ground
	}
	l.cut = split
	l.release()
	return dst
}

// AppendLines does the same as calls of Append for whole lines, each with a line feed at its end. It is faster,
// because it can check many lines together.
func (l *Lines) AppendLines(dst, lines []byte) []byte {
	if l.isAtRest() && l.areHarmless(lines) {
		return append(dst, lines...)
	}
	for len(lines) > 0 {
		end := bytes.IndexByte(lines, lineFeed)
		dst = append(l.Append(dst, lines[:end], false), lineFeed)
		lines = lines[end+1:]
	}
	return dst
}

const lineFeed = '\n'

// isAtRest reports whether nothing continues from the line before.
func (l *Lines) isAtRest() bool {
	return !l.cut && l.visible.place == place{} && l.raw.place == place{}
}

// areHarmless reports whether Append would not change lines, and nothing in them can continue after them. It may
// return false although that is so.
func (l *Lines) areHarmless(lines []byte) bool {
	if bytes.IndexByte(lines, esc) >= 0 || bytes.Contains(lines, []byte(schemeEnd)) {
		return false
	}
	forms := l.redactor.automaton()
	if forms == nil {
		return true
	}
	if forms.candidate(lines, 0)+forms.window <= len(lines) {
		return false
	}
	for rest := lines; len(rest) > 0; {
		end := bytes.IndexByte(rest, lineFeed)
		if end >= wrapColumn && base64Run(rest[:end]) == wrapColumn {
			return false
		}
		rest = rest[end+1:]
	}
	return true
}

// release frees buffers that a long line has made large.
func (l *Lines) release() {
	l.visible.release()
	l.raw.release()
	s := &l.scratch
	if max(cap(s.text), cap(s.escapes), cap(s.whole), cap(s.both), cap(s.all)) > maxScratch {
		l.scratch = scratch{}
	}
}

// appendMixed is Append for lines with escape sequences. They may interrupt a secret, or contain one (in the title
// of a window, or the address of a link). So the line is searched both without and with them.
func (l *Lines) appendMixed(dst, line []byte, split bool) []byte {
	l.mixed = true
	s := &l.scratch
	s.escapes = l.inside.sequences(s.escapes[:0], line)
	s.text = appendVisible(s.text[:0], line, s.escapes)

	how := lineEnd
	if split {
		how = cut
	}
	raw := l.raw.find(l.redactor.automaton(), line, 0, how)
	visible := l.findVisible(s.text, split)
	toRaw(visible, s.escapes)

	var kept []escape
	s.whole, kept = settle(s.whole[:0], raw, s.escapes)
	s.both = union(s.both[:0], raw, s.whole)
	s.all = union(s.all[:0], s.both, visible)
	return appendMasked(dst, line, s.all, kept)
}

// appendMasked appends text, with each of spans replaced by a mask. Escapes in a span are moved after its mask, so
// that colours end where they should.
func appendMasked(dst, text []byte, spans []span, escapes []escape) []byte {
	from := 0
	for _, s := range spans {
		dst = append(dst, text[from:s.start]...)
		dst = append(dst, mask...)
		for len(escapes) > 0 && escapes[0].start < s.end {
			if e := escapes[0]; e.start > s.start {
				dst = append(dst, text[e.start:e.end]...)
			}
			escapes = escapes[1:]
		}
		from = s.end
	}
	return append(dst, text[from:]...)
}

// findVisible returns the spans to mask in text, which is the present line without escape sequences.
func (l *Lines) findVisible(text []byte, split bool) []span {
	how := l.ending(text, split)
	skip := 0
	if !l.cut {
		if l.visible.node != root && bytes.HasPrefix(text, l.prefix) {
			skip = len(l.prefix)
		}
		if how != lineEnd {
			l.prefix = append(l.prefix[:0], buildPrefix(text)...)
		}
	}
	return l.visible.find(l.redactor.automaton(), text, skip, how)
}

// ending returns how text continues, and keeps the state that is needed then.
func (l *Lines) ending(text []byte, split bool) ending {
	if !split && !l.cut && len(text) < wrapColumn {
		return lineEnd
	}
	run := base64Run(text)
	if l.cut && run == len(text) {
		run += l.run
	}
	l.run = min(run, wrapColumn)
	switch {
	case split:
		return cut
	case run >= wrapColumn:
		return wrapped
	default:
		return lineEnd
	}
}

// base64Run returns the number of base64 characters at the end of text, up to wrapColumn.
func base64Run(text []byte) int {
	run := 0
	for run < min(len(text), wrapColumn) && isBase64[text[len(text)-1-run]] {
		run++
	}
	return run
}

var isBase64 = bytesOf(alphanumeric + "+/-_=")

// buildPrefix returns the prefix that Nix writes before each line of a build's log: "name> " during the build, and
// spaces and "> " in the error after a failure. The prefix may also be indentation only.
func buildPrefix(text []byte) []byte {
	const end = "> "
	indent := len(text) - len(bytes.TrimLeft(text, " "))
	if indent > maxPrefix {
		return nil
	}
	for i := indent; i < len(text) && i <= maxPrefix-len(end); i++ {
		if isName[text[i]] {
			continue
		}
		if bytes.HasPrefix(text[i:], []byte(end)) {
			return text[:i+len(end)]
		}
		break
	}
	return text[:indent]
}

// isName has the characters that Nix allows in the name of a store path.
var isName = bytesOf(alphanumeric + "+-._?=")

// bytesOf returns the set of the bytes in chars.
func bytesOf(chars string) (set [256]bool) {
	for i := range len(chars) {
		set[chars[i]] = true
	}
	return set
}
