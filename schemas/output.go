package schemas

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"time"
	"unicode/utf8"
)

const (
	outputBegin  = `{"stdout":"`
	outputMiddle = `","jobStatus":"running"`
	outputEnd    = `","jobStatus":"running"}`
	outputEndsAt = `","jobStatus":"running","timestamp":` // in the format Stack
)

// Lines encodes lines of output that are sent at the same time.
type Lines struct{ end string }

// Lines returns an encoder for lines that are sent at the time at.
func (f Format) Lines(at time.Time) Lines {
	if f == Document {
		return Lines{outputEnd}
	}
	return Lines{outputEndsAt + strconv.FormatInt(at.UnixMilli(), 10) + "}"}
}

// Append appends the same bytes as Encode returns for Output(line). It allocates nothing, because logs have
// millions of lines. line must be valid UTF-8.
func (l Lines) Append(dst, line []byte) []byte {
	dst = append(dst, outputBegin...)
	dst = appendEscaped(dst, line)
	return append(dst, l.end...)
}

// CutOutput returns the line of a message that Lines or AppendMessage made, without decoding it, which is too
// slow for a million lines. It reports false for every message that needs decoding. It does not notice
// invalid JSON after the line.
func CutOutput(message []byte) (line []byte, ok bool) {
	text, begins := bytes.CutPrefix(message, []byte(outputBegin))
	end := bytes.IndexByte(text, '"')
	if !begins || end < 0 || !bytes.HasPrefix(text[end:], []byte(outputMiddle)) || !bytes.HasSuffix(text, []byte("}")) {
		return nil, false
	}
	line = text[:end]
	return line, bytes.IndexByte(line, '\\') < 0
}

// escaped are the bytes that must be escaped in a JSON string, and the first byte of U+2028 and U+2029, which
// end lines in JavaScript.
var escaped = func() (table [256]bool) {
	for b := range byte(' ') {
		table[b] = true
	}
	table['"'], table['\\'], table[lineSeparator[0]] = true, true, true
	return table
}()

// lineSeparator is the beginning of U+2028 and U+2029 in UTF-8. Their last bytes are 0xA8 and 0xA9.
const lineSeparator = "\xe2\x80"

const hexDigits = "0123456789abcdef"

func appendEscaped(dst, text []byte) []byte {
	begin := 0 // of the text that is not copied yet
	for i := plainLength(text); i < len(text); i += 1 + plainLength(text[i+1:]) {
		b := text[i]
		if b == lineSeparator[0] {
			r, size := utf8.DecodeRune(text[i:])
			if r == '\u2028' || r == '\u2029' {
				dst = append(dst, text[begin:i]...)
				dst = append(dst, `\u202`...)
				dst = append(dst, hexDigits[r&0xf])
				begin = i + size
			}
			i += size - 1
			continue
		}
		dst = append(dst, text[begin:i]...)
		dst = appendEscape(dst, b)
		begin = i + 1
	}
	return append(dst, text[begin:]...)
}

// plainLength returns how many bytes at the beginning of text need no escape.
func plainLength(text []byte) int {
	last := len(text) - 8 // where the last eight bytes begin
	for i := 0; i < len(text); {
		switch {
		case i <= last && arePlain(binary.LittleEndian.Uint64(text[i:])):
			i += 8
		case i > last && last >= 0 && arePlain(binary.LittleEndian.Uint64(text[last:])):
			return len(text) // some of these bytes are checked twice
		case escaped[text[i]]:
			return i
		default:
			i++
		}
	}
	return len(text)
}

// arePlain reports whether none of the eight bytes of word needs an escape. It may return false although that
// is so, but never true wrongly.
func arePlain(word uint64) bool {
	const each, highest = 0x0101010101010101, 0x8080808080808080
	quote, backslash := word^each*'"', word^each*'\\'
	// Of ASCII, each sum has its highest bit if the byte is none of those.
	if (word+each*(0x80-' '))&(quote+each*0x7f)&(backslash+each*0x7f)&^word&highest == highest {
		return true
	}
	// A byte that is less than n borrows from its highest bit when n is subtracted, and bytes
	// are compared by their difference to 0. (Warren, Hacker's Delight, section 6.1.)
	separator := word ^ each*0xe2 // of lineSeparator
	return ((word-each*' ')&^word|(quote-each)&^quote|(backslash-each)&^backslash|
		(separator-each)&^separator)&highest == 0
}

func appendEscape(dst []byte, b byte) []byte {
	switch b {
	case '"', '\\':
		return append(dst, '\\', b)
	case '\b':
		return append(dst, `\b`...)
	case '\f':
		return append(dst, `\f`...)
	case '\n':
		return append(dst, `\n`...)
	case '\r':
		return append(dst, `\r`...)
	case '\t':
		return append(dst, `\t`...)
	default:
		return append(dst, '\\', 'u', '0', '0', hexDigits[b>>4], hexDigits[b&0xf])
	}
}
