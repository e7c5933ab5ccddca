package redact

import "bytes"

const esc = '\x1b'

// An escape is a part of a text that a terminal interprets and does not show: a control string, or one or
// more other escape sequences (ECMA-48 and ECMA-35).
type escape struct {
	span
	body int // the start of the text of a control string; the end, if it is another sequence
}

// An escapeState is the position in an escape sequence at the end of a text.
type escapeState uint8

const (
	ground    escapeState = iota // in none
	begun                        // after ESC
	inControl                    // after ESC [
	inShort                      // after ESC and one of space to /, as for a charset
	inString                     // after ESC ] and the like: the title of a window, a link
	stringESC                    // after ESC in a string
)

// sequences appends the escape sequences in text, which follows the state.
func (s *escapeState) sequences(dst []escape, text []byte) []escape {
	for i := 0; i < len(text); {
		e := escape{span: span{start: i}, body: i}
		if *s == ground {
			next := bytes.IndexByte(text[i:], esc)
			if next < 0 {
				break
			}
			*s = begun
			e.start = i + next
			i = e.start + 1
			e.body = i + 1
		}
		holdsText := *s >= inString || *s == begun && i < len(text) && startsString[text[i]]
		i = s.end(text, i)
		e.end = i
		if !holdsText {
			e.body = i
		}
		dst = join(dst, e)
	}
	return dst
}

// join adds e to escapes. If it can, it extends the last one, because a line may have very many.
func join(escapes []escape, e escape) []escape {
	if n := len(escapes); n > 0 && e.body == e.end && escapes[n-1].body == e.start && escapes[n-1].end == e.start {
		escapes[n-1].end, escapes[n-1].body = e.end, e.body
		return escapes
	}
	if e.start == e.end {
		return escapes
	}
	return append(escapes, e)
}

// end returns the end of the sequence that continues at text[i:].
func (s *escapeState) end(text []byte, i int) int {
	for ; i < len(text) && *s != ground; i++ {
		if text[i] == esc && *s == inString && i+1 < len(text) && text[i+1] != '\\' {
			*s = ground
			return i // another sequence ends the string
		}
		state, belongs := s.next(text[i])
		*s = state
		if !belongs {
			return i
		}
	}
	return i
}

// next returns the state after c, and whether c belongs to the sequence.
func (s escapeState) next(c byte) (state escapeState, belongs bool) {
	switch {
	case s == inString:
		return afterInString(c), true
	case s == begun || s == stringESC:
		return afterESC(c)
	case c >= 0x20 && c <= 0x2f, c >= 0x30 && c <= 0x3f && s == inControl:
		return s, true
	default:
		return ground, c >= 0x30 && c <= 0x7e
	}
}

func afterInString(c byte) escapeState {
	const bel, can, sub = 0x07, 0x18, 0x1a
	switch c {
	case bel, can, sub:
		return ground
	case esc:
		return stringESC
	default:
		return inString
	}
}

func afterESC(c byte) (state escapeState, belongs bool) {
	switch {
	case c == '[':
		return inControl, true
	case startsString[c]:
		return inString, true
	case c >= 0x20 && c <= 0x2f:
		return inShort, true
	default:
		return ground, c >= 0x30 && c <= 0x7e
	}
}

// startsString has the characters that, after ESC, start a control string: OSC, DCS, SOS, PM, APC.
var startsString = bytesOf("]PX^_")

// appendVisible appends text without its escapes.
func appendVisible(dst, text []byte, escapes []escape) []byte {
	from := 0
	for _, e := range escapes {
		dst = append(dst, text[from:e.start]...)
		from = e.end
	}
	return append(dst, text[from:]...)
}

// toRaw converts spans of a text without escapes to spans of the text with escapes.
func toRaw(spans []span, escapes []escape) {
	shift := 0
	raw := func(i int) int {
		for len(escapes) > 0 && escapes[0].start <= i+shift {
			shift += escapes[0].end - escapes[0].start
			escapes = escapes[1:]
		}
		return i + shift
	}
	for i, s := range spans {
		spans[i] = span{start: raw(s.start), end: raw(s.end-1) + 1}
	}
}

// settle decides what happens to the escapes that overlap with spans, which were found in the text with all
// its escapes. In the text of a control string, a span is masked like any other. Other sequences are masked
// completely, because a terminal would interpret the text after the rest of a sequence as part of it; they
// are appended to whole. The escapes that overlap with no span are returned as kept, which reuses the memory
// of escapes.
func settle(whole, spans []span, escapes []escape) (_ []span, kept []escape) {
	kept = escapes[:0]
	for _, e := range escapes {
		for len(spans) > 0 && spans[0].end <= e.start {
			spans = spans[1:]
		}
		switch {
		case len(spans) == 0 || spans[0].start >= e.end:
			kept = append(kept, e)
		case spans[0].start < e.body:
			whole = append(whole, e.span)
		}
	}
	return whole, kept
}
