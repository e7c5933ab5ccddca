package redact

// A place is the position of a stream within a form at the end of a text.
type place struct {
	node uint32 // the beginning of a form with which the text ends
	url  urlState
}

// A view searches a stream of text, either with or without escape sequences. Its slices are buffers that are valid only
// until its next call.
type view struct {
	place
	found   []span // forms in the text, and the beginning of a form at the text's end
	resumed []span // the same, for forms that began in earlier texts
	keys    []span // of URLs
	forms   []span
	all     []span
}

// find returns the spans to mask in text, sorted and with gaps between them. The text continues after the view's place.
// Forms that began in earlier texts continue at its byte skip.
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

// resume finds forms that began in earlier texts and continue in text, at its byte skip. It returns the node at the end
// of text if such a form may continue even after that, and the root if not.
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

// coverBeginning adds a span for the beginning of a form, of length bytes, at the end of the text between from and end.
// It adds none if the beginning is so short that it could be other text.
func coverBeginning(spans []span, length, from, end int) []span {
	if length < minSecret || from == end {
		return spans
	}
	return cover(spans, span{max(from, end-length), end})
}

// release frees buffers that a long text has made large.
func (v *view) release() {
	if max(cap(v.found), cap(v.resumed), cap(v.keys), cap(v.forms), cap(v.all)) > maxScratch {
		*v = view{place: v.place}
	}
}

// A span is the part of a text from the byte start up to the byte end.
type span struct{ start, end int }

// cover adds s to spans, which are sorted and have gaps between them, and joins it with those that it overlaps or
// touches. None of them may be completely after s.
func cover(spans []span, s span) []span {
	for len(spans) > 0 && s.start <= spans[len(spans)-1].end {
		last := spans[len(spans)-1]
		s = span{min(s.start, last.start), max(s.end, last.end)}
		spans = spans[:len(spans)-1]
	}
	return append(spans, s)
}

// union appends the union of a and b to dst, which must be empty.
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
