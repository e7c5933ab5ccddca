// Package termtext makes untrusted text safe to show on a terminal.
//
// A log may contain control sequences, and a terminal executes them: it moves its cursor, changes its title, fills the
// clipboard, or sends keys to the shell. So only text, tabs and colours are passed on. Characters that change the
// direction of text are replaced by their numbers, because with them a line can look like another one
// (CVE-2021-42574).
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
	// eraseToEnd is removed: ECMA-48, EL. Some compilers, such as GCC, print it after each colour. It is useless in
	// a log.
	eraseToEnd = "\x1b[K"
	// longestColors is the length of the longest sequence that sets colours, in bytes: more than programs use.
	longestColors = 64
)

// AppendLine appends a line for a terminal to dst. Control characters are shown as by cat -v. If color is true, colours
// are kept, and end at the end of the line.
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

// isC1 reports whether a character is an 8-bit control character of ECMA-48.
func isC1(r rune) bool { return 0x80 <= r && r < 0xa0 }

// isDirection reports whether a character changes the direction of the text around it
// (Unicode Standard Annex 9).
func isDirection(r rune) bool { return unicode.Is(unicode.Bidi_Control, r) }

// colors returns the length of a sequence that sets colours at the beginning of text, or 0 if there is none: ECMA-48,
// SGR, with the colons of ISO 8613-6.
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

// appendVisible appends a visible form of a character.
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

// Visible returns a text with its control characters in a visible form.
func Visible(text string) string { return string(AppendLine(nil, []byte(text), false)) }

// AppendJSON appends a JSON text to dst. Control characters in its strings are escaped, so that a program reads the
// same text.
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
