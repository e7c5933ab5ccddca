package buildclient

import (
	"bytes"
	"unicode/utf8"
)

// A log may hold anything, and a terminal does what it is told: it moves its cursor, changes
// its title, sends keys to the shell. So nothing of a log or of a builder's message reaches
// a terminal but text, tabs and colours.

const (
	// resetColors ends all colours: ECMA-48, SGR 0.
	resetColors = "\x1b[0m"
	// eraseToEnd is what compilers print after each colour (GCC does), and of no use in a
	// log: ECMA-48, EL.
	eraseToEnd = "\x1b[K"
	// longestColors is more than what any program needs to set colours, in bytes.
	longestColors = 64
)

// appendLine appends a line of a log for a terminal: control characters as cat -v shows
// them, colours as they are if the terminal is to have any. They end with the line.
func appendLine(dst, line []byte, color bool) []byte {
	if isText(line) {
		return append(dst, line...)
	}
	colored := false
	for len(line) > 0 {
		if sgr := colors(line); sgr > 0 {
			if color {
				dst = append(dst, line[:sgr]...)
				colored = true
			}
			line = line[sgr:]
			continue
		}
		if rest, ok := bytes.CutPrefix(line, []byte(eraseToEnd)); ok {
			line = rest
			continue
		}
		r, size := utf8.DecodeRune(line)
		dst = appendVisible(dst, r)
		line = line[size:]
	}
	if colored {
		dst = append(dst, resetColors...)
	}
	return dst
}

// isText reports whether a line holds no control character but tabs, and is valid UTF-8.
func isText(line []byte) bool {
	for i, b := range line {
		if b < ' ' && b != '\t' || b == 0x7f || b == c1 && i+1 < len(line) && line[i+1] < 0xa0 {
			return false
		}
	}
	return utf8.Valid(line)
}

// c1 is the first byte in UTF-8 of the control characters from U+0080 to U+009F.
const c1 = 0xc2

// colors returns the length of the sequence that sets colours at the beginning of text, or 0:
// ECMA-48, SGR, with the colons of ISO 8613-6.
func colors(text []byte) int {
	if len(text) < 3 || text[0] != 0x1b || text[1] != '[' {
		return 0
	}
	for i, b := range text[2:min(len(text), longestColors)] {
		switch {
		case b == 'm':
			return i + 3
		case (b < '0' || b > '9') && b != ';' && b != ':':
			return 0
		}
	}
	return 0
}

// appendVisible appends a character, a control character as cat -v shows it.
func appendVisible(dst []byte, r rune) []byte {
	switch {
	case r == '\t':
		return append(dst, '\t')
	case r < ' ':
		return append(dst, '^', byte(r)+'@')
	case r == 0x7f:
		return append(dst, '^', '?')
	case 0x80 <= r && r < 0xa0:
		return append(dst, 'M', '-', '^', byte(r-0x80)+'@')
	}
	return utf8.AppendRune(dst, r)
}

// visible returns text without control characters that do anything.
func visible(text string) string { return string(appendLine(nil, []byte(text), false)) }
