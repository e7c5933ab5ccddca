package schemas

import (
	"bytes"
	"unicode/utf8"
)

const (
	outputBegin = `{"stdout":"`
	outputEnd   = `","jobStatus":"running"}`
)

// AppendOutput appends what Output(line).Encode returns, byte for byte. It is for
// logs of millions of lines: it allocates nothing. line must be valid UTF-8.
func AppendOutput(dst, line []byte) []byte {
	dst = append(dst, outputBegin...)
	dst = appendEscaped(dst, line)
	return append(dst, outputEnd...)
}

// CutOutput returns the line of a message that AppendOutput made, without decoding it. It
// reports false for every message that takes decoding.
func CutOutput(message []byte) (line []byte, ok bool) {
	line, begins := bytes.CutPrefix(message, []byte(outputBegin))
	line, ends := bytes.CutSuffix(line, []byte(outputEnd))
	return line, begins && ends && bytes.IndexByte(line, '\\') < 0 && bytes.IndexByte(line, '"') < 0
}

// escaped are the bytes that may not stand for themselves in a JSON string, and the
// first byte of U+2028 and U+2029, which end lines in JavaScript.
var escaped = func() (table [256]bool) {
	for b := range byte(' ') {
		table[b] = true
	}
	table['"'], table['\\'], table[lineSeparator[0]] = true, true, true
	return table
}()

// lineSeparator is what U+2028 and U+2029 begin with in UTF-8; their last bytes are
// 0xA8 and 0xA9.
const lineSeparator = "\xe2\x80"

const hexDigits = "0123456789abcdef"

func appendEscaped(dst, text []byte) []byte {
	begin := 0 // of what is not copied yet
	for i := 0; i < len(text); i++ {
		b := text[i]
		if !escaped[b] {
			continue
		}
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
