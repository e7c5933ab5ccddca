package redact

import "bytes"

// urlState says where in the beginning of a URL a text ends: how much of "://" is
// there, or which part follows it.
type urlState uint8

const (
	schemeEnd = "://"

	outside urlState = 0                        // 1 and 2: after ":" and ":/"
	inUser           = urlState(len(schemeEnd)) // before the first ':' of what follows
	inKey            = inUser + 1
)

// find appends the keys of URLs in text, as in https://user:key@host, to spans, which
// must be empty. The text is what follows the state. If it is cut while it is unknown
// whether a '@' comes, all that would be the key counts as one.
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

// resume goes on with a "://" that the text before text has begun, and returns where
// it ends.
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

// findKey looks for a key in the authority (RFC 3986, section 3.2) that starts, or
// goes on, at text[i:], and returns where it ends. A user's name ends at the first
// colon, but a key that was not encoded properly may have any number of '@' in it.
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

// endsAuthority holds what cannot be part of an authority: what starts the next part
// of a URL, white space and other controls, and what commonly encloses a URL.
var endsAuthority = func() (set [256]bool) {
	set = bytesOf("/?#\"'`<>\x7f")
	for c := range byte(' ' + 1) {
		set[c] = true
	}
	return set
}()

// beginning says how much of "://" text ends with.
func beginning(text []byte) urlState {
	for length := inUser - 1; length > outside; length-- {
		if bytes.HasSuffix(text, []byte(schemeEnd[:length])) {
			return length
		}
	}
	return outside
}
