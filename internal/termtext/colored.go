package termtext

import "strings"

// AppendColored appends a line that Nix has printed where there is no terminal to dst, with the colours
// that the same line has where there is one. It reports whether it is the same line. What it appends is
// plain byte for byte, with nothing between but what sets colours.
//
// Where there is no terminal, Nix leaves out control sequences, CR and BEL, and makes spaces of
// tabs (filterANSIEscapes in its terminal.cc).
func AppendColored(dst, plain []byte, colored string) (_ []byte, same bool) {
	for len(colored) > 0 {
		switch c := colored[0]; c {
		case '\x1b':
			length := colors(colored)
			if dst = append(dst, colored[:length]...); length == 0 {
				length = sequence(colored)
			}
			colored = colored[length:]
			continue
		case '\r', '\a':
		case '\t':
			spaces := leading(plain) - (blanks(colored) - 1) // those behind it have their own
			if spaces < 1 {
				return dst, false
			}
			dst, plain = append(dst, plain[:spaces]...), plain[spaces:]
		default:
			if len(plain) == 0 || plain[0] != c {
				return dst, false
			}
			dst, plain = append(dst, c), plain[1:]
		}
		colored = colored[1:]
	}
	return dst, len(plain) == 0
}

// leading returns how many spaces a text begins with.
func leading(text []byte) (n int) {
	for n < len(text) && text[n] == ' ' {
		n++
	}
	return n
}

// blanks returns how many spaces and tabs a text begins with, between which may be control sequences.
func blanks(text string) (n int) {
	for len(text) > 0 {
		switch text[0] {
		case '\x1b':
			text = text[sequence(text):]
			continue
		case ' ', '\t':
			n++
		case '\r', '\a':
		default:
			return n
		}
		text = text[1:]
	}
	return n
}

// sequence returns the length of the control sequence that a text begins with (ECMA-48), as Nix takes it.
func sequence(text string) int {
	rest := text[1:] // without ESC
	switch {
	case strings.HasPrefix(rest, "["):
		rest = strings.TrimLeft(rest[1:], "0123456789:;<=>?")
		rest = strings.TrimLeft(rest, " !\"#$%&'()*+,-./")
		if rest != "" && '@' <= rest[0] && rest[0] <= '~' {
			rest = rest[1:]
		}
	case strings.HasPrefix(rest, "]"):
		end := strings.IndexAny(rest, "\a\x1b")
		if end < 0 {
			return len(text)
		}
		rest = strings.TrimPrefix(rest[end:], "\x1b")
		if rest != "" {
			rest = rest[1:]
		}
	case rest != "" && '@' <= rest[0] && rest[0] <= '_':
		rest = rest[1:]
	}
	return len(text) - len(rest)
}
