// Package termtext makes text from elsewhere harmless to a terminal and to the person who
// reads it there.
//
// A log may hold anything, and a terminal does what it is told: it moves its cursor, changes
// its title, fills the clipboard, sends keys to the shell. So nothing but text, tabs and
// colours reaches it. Characters that change the direction of what follows are shown by
// their numbers: with them a line reads as something else than it is (CVE-2021-42574).
package termtext

import (
	"bytes"
	"fmt"
	"unicode"
	"unicode/utf8"
)

const (
	// ResetColors ends all colours: ECMA-48, SGR 0.
	ResetColors = "\x1b[0m"
	// eraseToEnd is what compilers print after each colour (GCC does), and of no use in a
	// log: ECMA-48, EL.
	eraseToEnd = "\x1b[K"
	// longestColors is more than what any program needs to set colours, in bytes.
	longestColors = 64
)

// AppendLine appends a line for a terminal to dst: control characters as cat -v shows them,
// colours as they are if the terminal is to have any. They end with the line.
func AppendLine(dst, line []byte, color bool) []byte {
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
		dst = append(dst, ResetColors...)
	}
	return dst
}

// isText reports whether a line is valid UTF-8 and can be shown as it is.
func isText(line []byte) bool {
	ascii := true
	for _, b := range line {
		if b < ' ' && b != '\t' || b == 0x7f {
			return false
		}
		ascii = ascii && b < utf8.RuneSelf
	}
	return ascii || utf8.Valid(line) && !bytes.ContainsFunc(line, func(r rune) bool { return isC1(r) || isDirection(r) })
}

// isC1 reports whether a character is one of the control characters of ECMA-48 of eight bits.
func isC1(r rune) bool { return 0x80 <= r && r < 0xa0 }

// isDirection reports whether a character changes the direction of the text around it
// (Unicode Standard Annex 9).
func isDirection(r rune) bool { return unicode.Is(unicode.Bidi_Control, r) }

// colors returns the length of the sequence that sets colours at the beginning of text, or 0:
// ECMA-48, SGR, with the colons of ISO 8613-6.
func colors[T string | []byte](text T) int {
	if len(text) < 3 || text[0] != 0x1b || text[1] != '[' {
		return 0
	}
	for i := range min(len(text), longestColors) - 2 {
		switch b := text[i+2]; {
		case b == 'm':
			return i + 3
		case (b < '0' || b > '9') && b != ';' && b != ':':
			return 0
		}
	}
	return 0
}

// appendVisible appends a character so that it does nothing but show.
func appendVisible(dst []byte, r rune) []byte {
	switch {
	case r == '\t':
		return append(dst, '\t')
	case r < ' ':
		return append(dst, '^', byte(r)+'@')
	case r == 0x7f:
		return append(dst, '^', '?')
	case isC1(r):
		return append(dst, 'M', '-', '^', byte(r-0x80)+'@')
	case isDirection(r):
		return fmt.Appendf(dst, "<%U>", r)
	}
	return utf8.AppendRune(dst, r)
}

// Visible returns text with nothing in it that does anything but show.
func Visible(text string) string { return string(AppendLine(nil, []byte(text), false)) }

// AppendJSON appends a JSON text to dst. What does more in its strings than show is escaped,
// so that it is the same text to a program.
func AppendJSON(dst, text []byte) []byte {
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		if r == 0x7f || isC1(r) || isDirection(r) {
			dst = fmt.Appendf(dst, `\u%04x`, r)
		} else {
			dst = append(dst, text[:size]...)
		}
		text = text[size:]
	}
	return dst
}
