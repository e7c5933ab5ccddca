package termtext

import "strings"

// AppendColored adds the colours of a line to the same line without colours, and appends the result to dst. plain is
// the line as Nix prints it without a terminal, and colored as it prints it on a terminal. It reports whether both are
// the same line. The result is plain, byte for byte, with added sequences that set colours.
//
// Without a terminal, Nix omits control sequences, CR and BEL, and replaces tabs by spaces (filterANSIEscapes in its
// terminal.cc).
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

// leading returns the number of spaces at the beginning of a text.
func leading(text []byte) (n int) {
	for n < len(text) && text[n] == ' ' {
		n++
	}
	return n
}

// blanks returns the number of spaces and tabs at the beginning of a text. Control sequences between them are ignored.
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

// sequence returns the length of the control sequence (ECMA-48) at the beginning of a text, as Nix recognizes it.
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
