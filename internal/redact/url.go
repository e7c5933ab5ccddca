package redact

import "bytes"

// A urlState is the position in the beginning of a URL at the end of a text: how much of "://" the text has, or in
// which part after it the text ends.
type urlState uint8

const (
	schemeEnd = "://"

	outside urlState = 0                        // 1 and 2: after ":" and ":/"
	inUser           = urlState(len(schemeEnd)) // before the first ':' of what follows
	inKey            = inUser + 1
)

// find appends the keys of URLs in text, as in https://user:key@host, to spans, which must be empty. The text continues
// after the state. If it is cut before it is known whether a '@' follows, everything that may be a key counts as one.
func (u *urlState) find(spans []span, text []byte, isCut bool) []span {
	i := u.resume(text)
	for {
		if *u >= inUser {
			spans, i = u.findKey(spans, text, i, isCut)
			i = max(i-1, 0) // in a://b://c:d@e, the colon before what comes next
		}
		next := bytes.Index(text[i:], []byte(schemeEnd))
		if next < 0 {
			break
		}
		i += next + len(schemeEnd)
		*u = inUser
	}
	switch {
	case !isCut:
		*u = outside
	case *u == outside:
		*u = beginning(text[i:])
	}
	return spans
}

// resume continues a "://" that the previous text has begun, and returns its end.
func (u *urlState) resume(text []byte) int {
	i := 0
	for ; outside < *u && *u < inUser && i < len(text); i++ {
		if text[i] != schemeEnd[*u] {
			*u = outside
			return 0
		}
		*u++
	}
	return i
}

// findKey looks for a key in the authority (RFC 3986, section 3.2) that starts or continues at text[i:], and
// returns its end. A user's name ends at the first colon, but a key that was not encoded properly may contain any
// number of '@'.
func (u *urlState) findKey(spans []span, text []byte, i int, isCut bool) ([]span, int) {
	end := i
	for end < len(text) && !endsAuthority[text[end]] {
		end++
	}
	start := i
	if *u == inUser {
		if colon := bytes.IndexByte(text[i:end], ':'); colon >= 0 {
			start += colon + 1
			*u = inKey
		}
	}
	length := 0
	if *u == inKey {
		length = bytes.LastIndexByte(text[start:end], '@')
		if end == len(text) && isCut {
			length = end - start
		}
	}
	if length > 0 {
		spans = append(spans, span{start, start + length})
	}
	if end < len(text) || !isCut {
		*u = outside
	}
	return spans, end
}

// endsAuthority has the characters that cannot be in an authority: those that start the next part of a URL, white space
// and other control characters, and those that commonly enclose a URL.
var endsAuthority = func() (set [256]bool) {
	set = bytesOf("/?#\"'`<>\x7f")
	for c := range byte(' ' + 1) {
		set[c] = true
	}
	return set
}()

// beginning returns how much of "://" is at the end of text.
func beginning(text []byte) urlState {
	for length := inUser - 1; length > outside; length-- {
		if bytes.HasSuffix(text, []byte(schemeEnd[:length])) {
			return length
		}
	}
	return outside
}
