package redact

// A place is how far a stream has come into a secret where a text of it ends.
type place struct {
	node uint32 // the beginning of a form that it ends with
	url  urlState
}

// A view is a stream of text as one way to read it shows it. Its slices are buffers
// that live only until its next call.
type view struct {
	place
	found   []span // forms that lie in the text, and one that the text's end begins
	resumed []span // the same, of forms that texts before have begun
	keys    []span // of URLs
	forms   []span
	all     []span
}

// find returns what is to be masked in text, in order and with gaps between. The text
// is what follows the view's place. What texts before have begun goes on at its byte
// skip.
func (v *view) find(a *automaton, text []byte, skip int, how ending) []span {
	v.keys = v.url.find(v.keys[:0], text, how == cut)
	if a == nil {
		return v.keys
	}
	v.findForms(a, text, skip, how)
	forms := v.found
	if len(v.resumed) > 0 {
		v.forms = union(v.forms[:0], v.found, v.resumed)
		forms = v.forms
	}
	if len(v.keys) == 0 {
		return forms
	}
	v.all = union(v.all[:0], forms, v.keys)
	return v.all
}

// findForms sets found, resumed and node.
func (v *view) findForms(a *automaton, text []byte, skip int, how ending) {
	v.resumed = v.resumed[:0]
	resumed := uint32(root)
	if v.node != root {
		resumed = v.resume(a, text, skip)
	}
	var node uint32
	v.found, node = a.find(v.found[:0], text, how != lineEnd)
	switch {
	case how == lineEnd:
		v.node = root
	case resumed != root:
		v.node = resumed
		v.resumed = coverBeginning(v.resumed, a.depth(resumed), skip, len(text))
	default:
		v.node = node
		v.found = coverBeginning(v.found, a.depth(node), 0, len(text))
	}
}

// resume finds the forms that texts before have begun and text goes on with from its
// byte skip on. It returns the node at the end of text if one may go on even there,
// and the root if not.
func (v *view) resume(a *automaton, text []byte, skip int) uint32 {
	node := v.node
	for i := skip; i < len(text); i++ {
		node = a.next(node, text[i])
		if length := a.ending(node); length > 0 {
			v.resumed = cover(v.resumed, span{max(skip, i+1-length), i + 1})
		}
		if a.depth(node) <= i+1-skip {
			return root
		}
	}
	return node
}

// coverBeginning adds the beginning of a form, of length bytes, with which the text
// between from and end ends, unless it is too short to be told from other text.
func coverBeginning(spans []span, length, from, end int) []span {
	if length < minSecret || from == end {
		return spans
	}
	return cover(spans, span{max(from, end-length), end})
}

// release gives back the buffers that a long text has made large.
func (v *view) release() {
	if max(cap(v.found), cap(v.resumed), cap(v.keys), cap(v.forms), cap(v.all)) > maxScratch {
		*v = view{place: v.place}
	}
}

// A span is the part of a text from the byte start up to the byte end.
type span struct{ start, end int }

// cover adds s to spans that are in order and have gaps between, and joins it with
// those that it overlaps or touches. None of them may lie wholly after s.
func cover(spans []span, s span) []span {
	for len(spans) > 0 && s.start <= spans[len(spans)-1].end {
		last := spans[len(spans)-1]
		s = span{min(s.start, last.start), max(s.end, last.end)}
		spans = spans[:len(spans)-1]
	}
	return append(spans, s)
}

// union appends to dst, which must be empty, what a and b cover together.
func union(dst, a, b []span) []span {
	for len(a) > 0 || len(b) > 0 {
		if len(b) == 0 || len(a) > 0 && a[0].start < b[0].start {
			dst, a = cover(dst, a[0]), a[1:]
		} else {
			dst, b = cover(dst, b[0]), b[1:]
		}
	}
	return dst
}
